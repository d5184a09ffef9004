"""Arms of a comparison of encoders in hosts: a host and an encoder, swapped and realigned; or the host, its control."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislex.adapters.hosts import host_config, load_host
from vislex.adapters.swap import swap_encoder
from vislex.benchmarks.arms import validation_loss
from vislex.benchmarks.caption_models import folder_hash
from vislex.benchmarks.results import content_key
from vislex.benchmarks.summary import UNTRAINED
from vislex.benchmarks.trainings import Training, identity, train_once
from vislex.config import load_config
from vislex.encoders.factory import create_encoder
from vislex.recipes.realign import RECIPE, RealignConfig

__all__ = [
    "HostArm",
    "content_of_encoder",
    "content_of_host",
    "encoder_name",
    "host_name",
    "realign",
    "realign_config",
    "swap_once",
]


@dataclass(frozen=True)
class HostArm:
    """One row and seed of a comparison of hosts.

    Attributes:
        host: Folder or hub id.
        encoder: Name of what takes its encoder's place, "@untrained" behind it for random weights; None leaves it.
        seed: Of the new connector, of random weights and of the training; None for the host as it was.
        is_realigned: Whether it has been trained.
    """

    host: str
    encoder: str | None = None
    seed: int | None = None
    is_realigned: bool = False

    @property
    def parts(self) -> str:
        """The host, and the encoder in it."""
        name = host_name(self.host)
        return name if self.encoder is None else f"{name} + {encoder_name(self.encoder)}"

    @property
    def row(self) -> str:
        if self.encoder is not None:
            return f"{self.parts}, {'realigned' if self.is_realigned else 'before realigning'}"
        return f"{self.parts}, realigned (control)" if self.is_realigned else f"{self.parts}, as it was"

    @property
    def title(self) -> str:
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    @property
    def folder_name(self) -> str:
        parts = self.parts if self.encoder is not None else f"{self.parts} + control"
        return re.sub(r"[^\w.@-]+", "_", f"{parts} seed{self.seed}")

    def swap_identity(self, contents: Mapping[str, str]) -> dict[str, Any]:
        """What determines the weights before any training.

        Args:
            contents: What tells the weights of hosts and encoders apart, by their names.
        """
        made: dict[str, Any] = {"host": contents[self.host]}
        if self.encoder is not None:
            made |= {"encoder": self.encoder, "weights": contents[self.encoder], "seed": self.seed}
        return made

    def identity(self, contents: Mapping[str, str], overrides: Sequence[str], lrs: Sequence[float]) -> dict[str, Any]:
        """What determines the weights, for the key of a run; where the folders lie does not.

        Args:
            contents: See ``swap_identity``.
            overrides: ``key=value`` of the recipe ``realign``.
            lrs: Learning rates that are tried.
        """
        made = self.swap_identity(contents)
        if self.is_realigned:
            values = identity(realign_config(self, "", overrides))
            made |= {"realign": {key: values[key] for key in values if key != "model"}, "lrs": list(lrs)}
        return made


def host_name(host: str) -> str:
    """A folder's own name; a hub id as it is."""
    return Path(host).resolve().name if Path(host).is_dir() else host


def encoder_name(encoder: str) -> str:
    """A name as it is, but the last part of a folder only: ``hf:DIR`` is ``hf:NAME``."""
    kind, _, place = encoder.partition(":")
    return f"{kind}:{Path(place).resolve().name}" if place and Path(place).is_dir() else encoder


def content_of_host(host: str) -> str:
    """Hash of a folder, or a hub id with its commit.

    Raises:
        CheckpointError: If there is no such host, or its config carries what no checkpoint may.
        UnknownNameError: If it is of no host family.
    """
    stated = host_config(host)
    return folder_hash(Path(host)) if Path(host).is_dir() else f"{host}@{stated.get('_commit_hash')}"


def content_of_encoder(encoder: str) -> str:
    """Hash of a folder (``hf:DIR``, ``vilex:DIR``, ...), any other name as it is."""
    name = encoder.removesuffix(UNTRAINED)
    place = name.partition(":")[2]
    return folder_hash(Path(place)) if place and Path(place).is_dir() else name


def swap_once(arm: HostArm, contents: Mapping[str, str], folder: Path) -> Path:
    """The host of an arm with its encoder, swapped unless it was before.

    Args:
        arm: One with an encoder.
        contents: See ``HostArm.swap_identity``.
        folder: Where all of them go.

    Raises:
        SpecError: If the host cannot read this encoder's tokens.
    """
    assert arm.encoder is not None
    assert arm.seed is not None
    target = folder / f"{arm.folder_name}-{content_key(arm.swap_identity(contents))[:8]}"
    if target.is_dir():
        return target
    name = arm.encoder.removesuffix(UNTRAINED)
    weights: dict[str, Any] = {"pretrained": True} if name == arm.encoder else {"seed": arm.seed}
    model, processor = load_host(arm.host)
    made = target.with_name(f"{target.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    swap_encoder(model, processor, create_encoder(name, **weights), seed=arm.seed).save_pretrained(made)
    made.rename(target)
    return target


def realign_config(arm: HostArm, model: str | Path, overrides: Sequence[str]) -> RealignConfig:
    """The recipe's configuration for an arm.

    Args:
        arm: Gives the seed.
        model: Folder or hub id that the training starts from.
        overrides: Further ``key=value``.
    """
    config = load_config(RealignConfig, None, [*overrides, "model=start"])
    return config.model_copy(update={"model": str(model), "seed": arm.seed})


def realign(
    arm: HostArm,
    start: str | Path,
    contents: Mapping[str, str],
    folder: Path,
    *,
    overrides: Sequence[str],
    lrs: Sequence[float],
) -> Training:
    """Trains an arm unless its folder is finished.

    Args:
        arm: Which.
        start: Folder or hub id of the host, with its encoder.
        contents: See ``HostArm.swap_identity``.
        folder: Where all of them go.
        overrides: ``key=value`` of the recipe ``realign``.
        lrs: Learning rates to try; the one with the lowest validation loss is used. Empty: the recipe's own.
    """
    start = Path(start).resolve() if Path(start).is_dir() else start
    name = f"{arm.folder_name}-{content_key(arm.swap_identity(contents))[:8]}"
    tried = [
        train_once(RECIPE, realign_config(arm, start, words), folder, name)
        for words in ([[*overrides, f"lr={lr}"] for lr in lrs] or [list(overrides)])
    ]
    best = min(tried, key=lambda made: validation_loss(made.folder))
    return dataclasses.replace(best, seconds=sum(made.seconds for made in tried))
