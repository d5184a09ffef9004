"""What the experiments on ViLex share: their parts, their sizes, their trainings, and when nothing can be tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vislex.benchmarks.trainings import filled_config
from vislex.benchmarks.verdicts import NOT_TESTABLE, TESTABLE
from vislex.config import Config
from vislex.errors import DataError
from vislex.metrics.factors import FACTORS
from vislex.metrics.statistics import PairedInterval, paired_bootstrap, verdict
from vislex.recipes.dediffusion_pretrain import DeDiffusionPretrainConfig
from vislex.recipes.vilex_pretrain import ViLexPretrainConfig

__all__ = [
    "BASE_RESULTS", "NEVER_NAMED", "SMOKE", "Base", "TokenExperiment", "ViLexExperiment", "interval_values", "judge",
    "mean_interval", "tier_mean",
]  # fmt: skip

BASE_RESULTS = Path(__file__).parent / "results" / "vilex_base.json"
NEVER_NAMED = tuple(name for name, tier in FACTORS.items() if tier == "never")
# Values of an experiment that only shows that everything runs.
SMOKE: dict[str, Any] = {
    "budget": "smoke", "steps": 2, "batch_size": 8, "n_tokens": 4, "depth": 1, "train_size": 16, "val_size": 8,
    "precision": "fp32", "base": "runs/smoke/vilex_base.json", "folder": "runs/smoke/vilex",
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """The parts that ``vilex_base`` trained or was given, and its verdict on them.

    Attributes:
        reader: Folder or shipped name of the reader.
        encoder: Name of the encoder.
        t2i: Folder or shipped name of the text-to-image model.
        verdict: "testable", or "not testable": then no claim on ViLex is judged.
    """

    reader: str
    encoder: str
    t2i: str
    verdict: str

    @classmethod
    def read(cls, path: Path) -> Base:
        """From the result file of ``vilex_base``.

        Raises:
            DataError: If there is none, or it has not come to its verdict.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(**content["parts"], verdict=content["verdict"])
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{path} holds no finished base of the ViLex experiments ({type(error).__name__}); run "
                "'python -m vislex.benchmarks.vilex_base' first, or give its result file as --base"
            ) from error

    def judged(self, found: str) -> str:
        """A verdict, or that nothing can be tested on these parts."""
        return found if self.verdict == TESTABLE else NOT_TESTABLE


class ViLexExperiment(Config):
    """Sizes of an experiment; the defaults are for two cores."""

    base: Path = Field(BASE_RESULTS, description="result file of vilex_base: reader, encoder, text-to-image model")
    budget: Literal["smoke", "demo", "standard", "long"] = Field(
        "long", description="row of budgets.yaml, below the values here"
    )
    steps: int = Field(3000, ge=1, description="training steps of a pooling on cached features")
    batch_size: int = Field(32, ge=1, description="images a step, and a batch of the measurements")
    n_tokens: int = Field(16, ge=2, description="most tokens of an image")
    depth: int = Field(2, ge=1, le=5, description="layers of the pooling")
    token_scale: float = Field(3.0, gt=0, description="size of its tokens at the start, in typical word embeddings")
    lr: float = Field(1.5e-3, gt=0, description="peak learning rate of the pooling")
    words_lr: float = Field(5e-4, gt=0, description="the same of De-Diffusion, whose choices a larger one freezes")
    logit_mean: float = Field(1.5, description="of the times, logit-normal; above 0 noisy ones, where words tell most")
    vocabulary: Literal["core", "default", "large"] = Field("core", description="nouns: 100, 320 or all")
    image_size: int = Field(48, ge=16, description="side in pixels at which images are drawn")
    train_size: int = Field(20000, ge=1, description="training images")
    val_size: int = Field(500, ge=1, description="images of val, on which trainings are watched")
    seed: int = Field(0, ge=0, description="of the trainings, times and noise")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="of the trainings")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    folder: Path = Field(Path("runs/vilex"), description="folder of the trainings")

    def vilex(self, base: Base, **values: Any) -> ViLexPretrainConfig:
        """Configuration of a ViLex training at these sizes; by default only the pooling trains.

        Args:
            base: The parts.
            **values: Further fields.
        """
        fields = {**self._fields(base), "steps": self.steps, "stages": "frozen", **values}
        return filled_config(ViLexPretrainConfig, "vilex_pretrain_embedded", _with_validations(fields))

    def dediffusion(self, base: Base, **values: Any) -> DeDiffusionPretrainConfig:
        """The same of De-Diffusion, with twice the steps."""
        own = {"steps": 2 * self.steps, "stages": "frozen", "lr": self.words_lr}
        fields = {**self._fields(base), **own, **values}
        return filled_config(DeDiffusionPretrainConfig, "dediffusion_pretrain_embedded", _with_validations(fields))

    def _fields(self, base: Base) -> dict[str, Any]:
        return {
            "budget": self.budget,
            "seed": self.seed,
            "encoder": base.encoder,
            "t2i": base.t2i,
            "n_tokens": self.n_tokens,
            "depth": self.depth,
            "token_scale": self.token_scale,
            "objective": {"density": "logit_normal", "logit_mean": self.logit_mean, "weighting": "v"},
            "lr": self.lr,
            "batch_size": self.batch_size,
            "data_options": {"vocabulary": self.vocabulary, "image_size": self.image_size, "style": "dense"},
            "train_size": self.train_size,
            "val_size": self.val_size,
            "precision": self.precision,
            "device": self.device,
            "progress": False,
        }


class TokenExperiment(ViLexExperiment):
    """An experiment on what the tokens of a frozen encoder say; all of them share its trainings."""

    encoder: str = Field("fused:siglip-tiny+efficientnet-lite0", description="frozen encoder under test")

    def _fields(self, base: Base) -> dict[str, Any]:
        return {**super()._fields(base), "encoder": self.encoder}


def _with_validations(fields: dict[str, Any]) -> dict[str, Any]:
    """Warm-up, validations and checkpoints at a fixed share of the steps."""
    every = min(fields["steps"], max(5, fields["steps"] // 5))
    return {"warmup_steps": fields["steps"] // 25, "eval_every": every, "save_every": every, **fields}


def judge(low: float, high: float, margin: float = 0.0) -> str:
    """``statistics.verdict`` of an interval that was read from a file."""
    return "holds" if low > margin else "does not hold" if high < margin else "inconclusive"


def mean_interval(values: Sequence[float] | np.ndarray) -> PairedInterval:
    """The mean of a score over images, with its bootstrap interval."""
    scores = np.asarray(values, dtype=np.float64)
    return paired_bootstrap(scores, np.zeros_like(scores))


def interval_values(interval: PairedInterval, margin: float = 0.0) -> dict[str, Any]:
    """What a file keeps of an interval, and the verdict against a margin."""
    values = {"difference": interval.difference, "low": interval.low, "high": interval.high, "n": interval.n}
    effect = interval.minimal_detectable_effect
    return {**values, "minimal detectable effect": effect, "margin": margin, "verdict": verdict(interval, margin)}


def tier_mean(per_image: dict[str, Sequence[float]], names: Sequence[str] = NEVER_NAMED) -> np.ndarray:
    """Mean over some factors of what was read from each image, float64[N]."""
    mean: np.ndarray = np.mean([np.asarray(per_image[name], dtype=np.float64) for name in names], axis=0)
    return mean
