"""What ``compare --hosts`` compares: its configuration, its rows and pairs, and which keys are the recipe's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field, model_validator

from vislex.benchmarks.compare import ComparisonConfig
from vislex.benchmarks.comparison_settings import ComparisonSettings
from vislex.benchmarks.host_arms import HostArm, encoder_name, host_name
from vislex.config import load_config, parse_overrides, read_yaml
from vislex.errors import ConfigError, did_you_mean
from vislex.recipes.realign import RealignConfig

__all__ = ["HostComparisonConfig", "load_host_comparison"]

OWN = ("model", "control", "output_dir", "seed", "budget", "device")  # of the recipe; the comparison sets them


class HostComparisonConfig(ComparisonSettings):
    """What is compared, with the recipe ``realign``; see ``ComparisonSettings`` for the keys of every comparison.

    Differences, and the margin, are from the control; captions without ``max_new_tokens`` have at most 40.

    Attributes:
        hosts: Folders or hub ids of vision-language models of the families of ``vislex list hosts``.
        max_answer_tokens: Most tokens of an answer.
    """

    hosts: list[str] = Field(min_length=1)
    image_size: int = Field(default=64, ge=16)
    max_answer_tokens: int = Field(default=16, ge=1)

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
    of_captioners = set(ComparisonConfig.model_fields) - ours
    own: list[str] = []
    train = list(read_yaml(path).get("train") or []) if path is not None else []
    for word in words:
        key = word.partition("=")[0].strip().split(".")[0]
        if key in of_captioners:
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
