"""One arm of a comparison: an encoder, a decoder and a seed; trained by the recipe ``caption``, or shipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vislex.benchmarks.caption_models import learning_curve, read_json
from vislex.benchmarks.results import ModelInfo, Origin
from vislex.benchmarks.summary import UNTRAINED
from vislex.benchmarks.trainings import identity, train_once
from vislex.errors import CheckpointError
from vislex.shipped import shipped, shipped_models

__all__ = ["Arm", "TrainedArm", "shipped_arm", "train_arm", "validation_loss"]

DEFAULT_ENCODER = "efficientnet-lite0"


@dataclass(frozen=True)
class Arm:
    """An encoder, a decoder and the seed of their training.

    Attributes:
        encoder: Name; "@untrained" behind it means frozen random weights instead of pretrained ones.
        decoder: Name.
        seed: Seed of the downstream training; the control's random weights are drawn from it too.
    """

    encoder: str
    decoder: str
    seed: int = 0

    @property
    def is_control(self) -> bool:
        return self.encoder.endswith(UNTRAINED)

    @property
    def row(self) -> str:
        return f"{self.encoder} + {self.decoder}"

    @property
    def title(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def shipped_name(self) -> str:
        """Name under which vislex ships this arm's captioner; the default encoder's have the short names."""
        name = f"captioner-{self.decoder}-{self.encoder}".removesuffix(f"-{DEFAULT_ENCODER}")
        return name.replace("_", "-").replace("@", "-").replace(":", "-").replace("/", "-")

    @property
    def control(self) -> Arm:
        """The same arm with its encoder untrained."""
        return self if self.is_control else dataclasses.replace(self, encoder=f"{self.encoder}{UNTRAINED}")

    def overrides(self, budget: str, extra: Sequence[str] = ()) -> list[str]:
        """``key=value`` for the recipe ``caption``."""
        return [
            f"encoder={self.encoder.removesuffix(UNTRAINED)}",
            f"pretrained={'false' if self.is_control else 'true'}",
            f"decoder={self.decoder}",
            f"budget={budget}",
            f"seed={self.seed}",
            *extra,
        ]

    def identity(self, budget: str, extra: Sequence[str], lrs: Sequence[float]) -> dict[str, Any]:
        """What determines the trained weights, for the key of a run: the recipe's whole resolved config."""
        return {"config": identity(_recipe_config(self.overrides(budget, extra))), "lrs": list(lrs)}


@dataclass(frozen=True)
class TrainedArm:
    """A trained arm.

    Attributes:
        arm: Which one.
        folder: Captioner folder.
        origin: "trained live" by this call, "trained" before it, or "shipped" with vislex.
        seconds: Wall time of this call's training, 0 if it was there.
        config: Resolved config of the recipe.
    """

    arm: Arm
    folder: Path
    origin: Origin
    seconds: float
    config: dict[str, Any]

    def describe(self, info: ModelInfo) -> ModelInfo:
        """Fills in what the comparison knows beside the folder."""
        training = {**(info.training or {}), "config": self.config, "wall_seconds": round(self.seconds, 1)}
        known = {"row": self.arm.row, "encoder": self.arm.encoder, "decoder": self.arm.decoder, "seed": self.arm.seed}
        return info.model_copy(update={**known, "origin": self.origin, "training": training})


def shipped_arm(arm: Arm, *, budget: str, overrides: Sequence[str] = (), lrs: Sequence[float] = ()) -> TrainedArm:
    """The shipped captioner that an arm's training would give.

    Raises:
        CheckpointError: If this installation has none, or it was trained by another configuration.
    """
    if arm.shipped_name not in shipped_models():
        raise CheckpointError(f"no shipped model '{arm.shipped_name}'")
    folder = shipped(arm.shipped_name)
    wanted = identity(_recipe_config(arm.overrides(budget, overrides)))
    found = _recorded_values(folder)
    changed = sorted(key for key in wanted if wanted[key] != found[key])
    if changed or lrs:
        raise CheckpointError(
            f"the shipped '{arm.shipped_name}' was trained with other values of {', '.join(changed) or 'lrs'}"
        )
    return TrainedArm(arm, folder, "shipped", 0.0, wanted)


def train_arm(
    arm: Arm, *, budget: str, folder: Path, overrides: Sequence[str] = (), lrs: Sequence[float] = ()
) -> TrainedArm:
    """Trains an arm unless its folder is finished.

    Args:
        arm: What to train.
        budget: Row of ``budgets.yaml``.
        folder: Where the trained captioners go, one folder each.
        overrides: Further ``key=value`` of the recipe.
        lrs: Learning rates to try; the one with the lowest validation loss is used. Empty: the recipe's own.
    """
    tried = [_train(arm, budget, folder, [*overrides, f"lr={lr}"]) for lr in lrs] or [
        _train(arm, budget, folder, list(overrides))
    ]
    best = min(tried, key=lambda trained: validation_loss(trained.folder))
    return dataclasses.replace(best, seconds=sum(trained.seconds for trained in tried))


def _train(arm: Arm, budget: str, folder: Path, overrides: list[str]) -> TrainedArm:
    from vislex.recipes.caption import RECIPE

    name = f"{arm.row} {arm.seed}".replace(" + ", "__").replace(" ", "-seed").replace(":", "_").replace("/", "_")
    made = train_once(RECIPE, _recipe_config(arm.overrides(budget, overrides)), folder, name)
    return TrainedArm(arm, made.folder, "trained" if made.was_there else "trained live", made.seconds, made.config)


def _recipe_config(overrides: list[str]) -> Any:
    from vislex.config import load_config
    from vislex.recipes.caption import CaptionConfig

    return load_config(CaptionConfig, None, overrides)


def _recorded_values(folder: Path) -> dict[str, Any]:
    """``identity`` of the config that ``run.json`` records; fields newer than the record have their default."""
    from vislex.recipes.caption import CaptionConfig

    try:
        return identity(CaptionConfig.model_validate(read_json(folder / "run.json")["config"]))
    except (KeyError, ValidationError) as error:
        raise CheckpointError(
            f"'{folder.name}' does not say how it was trained, or was trained by another version of the recipe"
        ) from error


def validation_loss(folder: Path) -> float:
    """The last one of a training; infinite if it was never validated."""
    losses = [point["eval_loss"] for point in learning_curve(folder) if "eval_loss" in point]
    return losses[-1] if losses else float("inf")
