"""Trainings of a benchmark: one folder each, named by what determines its weights, and never made twice."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from vislex.benchmarks.results import content_key
from vislex.config import Config, load_config
from vislex.training.recipe import Recipe
from vislex.training.records import NOT_IDENTITY
from vislex.training.settings import TrainingSettings

__all__ = ["Training", "filled_config", "identity", "packaged_config", "train_once"]

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        folder: Where the model lies.
        config: What determined its weights.
        seconds: Wall time of this call, 0 if the model was there.
    """

    folder: Path
    config: dict[str, Any]
    seconds: float

    @property
    def was_there(self) -> bool:
        return self.seconds == 0


def identity(config: TrainingSettings) -> dict[str, Any]:
    """What of a recipe's config determines the trained weights."""
    return dict(config.model_dump(mode="json", exclude=set(NOT_IDENTITY)))


def train_once(recipe: Recipe, config: TrainingSettings, folder: Path, name: str) -> Training:
    """Trains unless the folder is finished; an interrupted training goes on from its last checkpoint.

    Args:
        recipe: What trains.
        config: Its configuration; ``output_dir`` is set here.
        folder: Where all trainings of the benchmark go.
        name: Begins the name of this one's folder.
    """
    values = identity(config)
    target = folder / f"{name}-{content_key(values)[:8]}"
    if (target / "run.json").is_file():
        return Training(target, values, 0.0)
    begun = time.perf_counter()
    made = recipe.run(config.model_copy(update={"output_dir": target}))
    return Training(Path(made), values, time.perf_counter() - begun)


def packaged_config(name: str) -> Path:
    """A configuration of ``vislex.recipes`` by its name without the ending."""
    return Path(str(resources.files("vislex.recipes") / "configs" / f"{name}.yaml"))


def filled_config(config: type[ConfigT], name: str, values: Mapping[str, Any]) -> ConfigT:
    """A packaged configuration with other values, plain JSON ones or paths.

    Args:
        config: Its class.
        name: Of the packaged configuration; see ``packaged_config``.
        values: By field, "field.key" for one entry of a mapping.
    """
    words = [f"{field}={json.dumps(value, default=str)}" for field, value in values.items()]
    return load_config(config, packaged_config(name), words)
