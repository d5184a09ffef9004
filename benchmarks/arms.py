"""One arm of a comparison: an encoder, a decoder and a seed, trained by the recipe ``caption`` unless it is there."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislex.benchmarks.results import ModelInfo, content_key
from vislex.benchmarks.summary import UNTRAINED
from vislex.training.records import NOT_IDENTITY

__all__ = ["Arm", "TrainedArm", "train_arm"]


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
        config = _recipe_config(self.overrides(budget, extra))
        values = config.model_dump(mode="json", exclude=set(NOT_IDENTITY))
        return {"config": values, "lrs": list(lrs)}


@dataclass(frozen=True)
class TrainedArm:
    """A trained arm.

    Attributes:
        arm: Which one.
        folder: Captioner folder.
        live: Whether it was trained by this call.
        seconds: Wall time of the training, 0 if it was there.
        config: Resolved config of the recipe.
    """

    arm: Arm
    folder: Path
    live: bool
    seconds: float
    config: dict[str, Any]

    def describe(self, info: ModelInfo) -> ModelInfo:
        """Fills in what the folder does not say: row, seed, training and learning curve."""
        record = _read_record(self.folder)
        kept: dict[str, Any] = {
            name: record[name] for name in ("figures", "parts", "parameters", "time", "processor") if name in record
        }
        parameters = _parameters(info.parameters, record.get("parameters") or {})
        training: dict[str, Any] = {"config": self.config, "wall_seconds": round(self.seconds, 1), **kept}
        return info.model_copy(
            update={
                "row": self.arm.row,
                "encoder": self.arm.encoder,
                "decoder": self.arm.decoder,
                "origin": "trained live" if self.live else "trained",
                "seed": self.arm.seed,
                "parameters": parameters,
                "training": training,
                "curve": _curve(self.folder / "training.jsonl"),
            }
        )


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
    best = min(tried, key=lambda trained: _validation_loss(trained.folder))
    return dataclasses.replace(best, seconds=sum(trained.seconds for trained in tried))


def _train(arm: Arm, budget: str, folder: Path, overrides: list[str]) -> TrainedArm:
    from vislex.recipes import caption

    config = _recipe_config(arm.overrides(budget, overrides))
    values = config.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    name = f"{arm.row} {arm.seed}".replace(" + ", "__").replace(" ", "-seed").replace(":", "_").replace("/", "_")
    target = folder / f"{name}-{content_key(values)[:8]}"
    if (target / "run.json").is_file():
        return TrainedArm(arm, target, live=False, seconds=0.0, config=values)
    begun = time.perf_counter()
    made = caption.run(config.model_copy(update={"output_dir": target}))
    return TrainedArm(arm, Path(made), live=True, seconds=time.perf_counter() - begun, config=values)


def _recipe_config(overrides: list[str]) -> Any:
    from vislex.config import load_config
    from vislex.recipes.caption import CaptionConfig

    return load_config(CaptionConfig, None, overrides)


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / "run.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _parameters(counted: dict[str, int], recorded: dict[str, int]) -> dict[str, int]:
    """The counts of a loaded folder, corrected by the training: what it froze is not told by the folder."""
    if "trainable" not in recorded:
        return counted
    trainable = recorded["trainable"]
    return {
        "total": counted["total"],
        "trainable": trainable,
        "frozen": counted["total"] - trainable,
        "budgeted": recorded.get("decoder_budget", trainable),
    }


def _curve(file: Path) -> list[dict[str, float]]:
    if not file.is_file():
        return []
    points = []
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        points.append({key: float(value) for key, value in entry.items() if isinstance(value, int | float)})
    return points


def _validation_loss(folder: Path) -> float:
    losses = [point["eval_loss"] for point in _curve(folder / "training.jsonl") if "eval_loss" in point]
    return losses[-1] if losses else float("inf")
