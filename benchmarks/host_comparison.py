"""What ``compare --hosts`` compares: its configuration, its rows and pairs, and which keys are the recipe's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vislex.benchmarks.captioning import Generation
from vislex.benchmarks.host_arms import HostArm, encoder_name, host_name
from vislex.config import Config, load_config, parse_overrides, read_yaml
from vislex.errors import ConfigError, did_you_mean
from vislex.recipes.realign import RealignConfig

__all__ = ["HostComparisonConfig", "load_host_comparison"]

OWN = ("model", "control", "output_dir", "seed", "budget", "device")  # of the recipe; the comparison sets them
NOT_WITH_HOSTS = ("decoders", "models", "baseline", "shipped", "live", "train_missing", "pairs")


class HostComparisonConfig(Config):
    """What is compared; written into the result file before the first run.

    Attributes:
        hosts: Folders or hub ids of vision-language models of the families of ``vislex list hosts``.
        encoders: Names of encoders; ``NAME@untrained`` has random weights.
        budget: Budget of each training, a row of ``budgets.yaml``.
        seeds: Number of swaps and trainings of each arm, with the seeds 0, 1, ...
        lrs: Learning rates that every arm tries; the best on val is used. Empty: the recipe's own.
        suite: Suite of drawings.
        splits: Splits that are scored.
        size: Images that are captioned, and questions, of each split.
        image_size: Side in pixels at which images are drawn.
        vocabulary: Vocabulary of the suite.
        n_train: Training rows that the floors may look at, and that a novel caption is not from.
        margin: Smallest difference of CIDEr-D (in [0, 10]) from the control that counts; None gives no verdicts.
        generation: Of captions; without ``max_new_tokens`` 40.
        max_answer_tokens: Most tokens of an answer.
        train: Further ``key=value`` of the recipe ``realign`` for every arm.
    """

    hosts: list[str] = Field(min_length=1)
    encoders: list[str] = Field(default_factory=list)
    budget: Literal["smoke", "demo", "standard", "long"] = "standard"
    seeds: int = Field(default=1, ge=1)
    lrs: list[float] = Field(default_factory=list)
    suite: str = "openmoji"
    splits: list[str] = Field(default_factory=lambda: ["test_composition"], min_length=1)
    size: int = Field(default=1000, ge=2)
    image_size: int = Field(default=64, ge=16)
    vocabulary: str = "default"
    margin: float | None = Field(default=None, ge=0)
    metric: Literal["CIDEr-D"] = "CIDEr-D"
    generation: Generation = Field(default_factory=Generation)
    max_answer_tokens: int = Field(default=16, ge=1)
    batch_size: int = Field(default=64, ge=1)
    n_latency: int = Field(default=16, ge=0)
    n_images: int = Field(default=24, ge=0)
    n_train: int = Field(default=2000, ge=1)
    device: str = "auto"
    dtype: str = "float32"
    train: list[str] = Field(default_factory=list)
    out: Path = Path("runs/compare")

    @model_validator(mode="after")
    def _something_to_do(self) -> HostComparisonConfig:
        if not self.encoders:
            raise ValueError("nothing to swap: give --encoders, names of 'vislex list encoders'")
        shown = {"hosts": map(host_name, self.hosts), "encoders": map(encoder_name, self.encoders)}
        for kind, names in ((kind, list(given)) for kind, given in shown.items()):
            if len(set(names)) < len(names):
                raise ValueError(f"two {kind} have one name among {', '.join(names)}; give each once, or rename it")
        if taken := [key for key in parse_overrides(self.train) if key in OWN]:
            raise ValueError(f"train: '{taken[0]}' of the recipe is set by the comparison; leave it out")
        return self

    @property
    def arms(self) -> list[HostArm]:
        """Host by host: as it was, then seed by seed its control and each encoder before and after the training."""
        return [arm for host in self.hosts for arm in self._arms_of(host)]

    def _arms_of(self, host: str) -> Iterator[HostArm]:
        yield HostArm(host)
        for seed in range(self.seeds):
            yield HostArm(host, None, seed, is_realigned=True)
            for encoder in self.encoders:
                yield HostArm(host, encoder, seed)
                yield HostArm(host, encoder, seed, is_realigned=True)

    @property
    def pairs(self) -> list[list[str]]:
        """Every swapped and realigned host against its control."""
        trained = [arm for arm in self.arms if arm.is_realigned and arm.seed == 0]
        controls = {arm.host: arm.row for arm in trained if arm.encoder is None}
        return [[arm.row, controls[arm.host]] for arm in trained if arm.encoder is not None]

    @property
    def recipe_overrides(self) -> list[str]:
        """What every arm's training is told beside its model and seed."""
        options = {"vocabulary": self.vocabulary, "image_size": self.image_size}
        mixture = [{"task": task, "data": self.suite, "options": options} for task in ("caption", "vqa")]
        shared = [f"budget={self.budget}", f"device={self.device}", f"mixture={json.dumps(mixture)}"]
        return [*shared, *self.train]


def load_host_comparison(path: Path | None, words: Sequence[str]) -> HostComparisonConfig:
    """Reads a comparison's configuration; a key that only the recipe ``realign`` has goes into ``train``.

    Args:
        path: YAML file.
        words: ``key=value``.

    Raises:
        ConfigError: With every problem at once, or if a key belongs to comparisons of captioners.
    """
    ours, theirs = set(HostComparisonConfig.model_fields), set(RealignConfig.model_fields)
    own: list[str] = []
    train = list(read_yaml(path).get("train") or []) if path is not None else []
    for word in words:
        key = word.partition("=")[0].strip().split(".")[0]
        if key in NOT_WITH_HOSTS:
            raise ConfigError(
                f"--hosts cannot be combined with '{key}', which belongs to comparisons of captioners; leave one out"
            )
        if key == "train":
            train += parse_overrides([word])["train"]
        elif key in ours:
            own.append(word)
        elif key in theirs:
            train.append(word)
        else:
            raise ConfigError(
                f"unknown key '{key}'{did_you_mean(key, ours | theirs)} Keys are those of the comparison "
                f"({', '.join(sorted(ours))}) and of the recipe realign ({', '.join(sorted(theirs - ours))})"
            )
    config = load_config(HostComparisonConfig, path, [*own, f"train={json.dumps(train)}"])
    load_config(RealignConfig, None, [*config.recipe_overrides, "model=start"])
    return config
