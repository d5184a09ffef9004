"""Trainings of a benchmark: one folder each, named by what determines its weights, and never made twice."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vislex.benchmarks.results import content_key
from vislex.training.recipe import Recipe
from vislex.training.records import NOT_IDENTITY
from vislex.training.settings import TrainingSettings

__all__ = ["Training", "identity", "packaged_config", "train_once"]


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
