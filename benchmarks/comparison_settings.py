"""The keys that every comparison has, of captioners and of hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vislex.benchmarks.captioning import Generation
from vislex.config import Config

__all__ = ["ComparisonSettings"]


class ComparisonSettings(Config):
    """What a comparison trains and measures; written into its result file before the first run.

    Attributes:
        encoders: Names of encoders; ``NAME@untrained`` has random weights.
        budget: Budget of each training, a row of ``budgets.yaml``.
        seeds: Number of trainings of each arm, with the seeds 0, 1, ...
        lrs: Learning rates that every arm tries; the best on val is used. Empty: the recipe's own.
        suite: Suite of drawings.
        splits: Splits that are scored.
        size: Images (and questions, where there are some) of each split.
        image_size: Side in pixels at which images are drawn.
        vocabulary: Vocabulary of the suite.
        margin: Smallest difference of CIDEr-D (in [0, 10]) that counts; None gives no verdicts.
        metric: What the margin is of.
        generation: How captions are written.
        batch_size: Images a batch of the measurements.
        n_latency: Images that are captioned one by one for the latency.
        n_images: Images that the result file keeps for its report.
        n_train: Training rows that the floors may look at, and that a novel caption is not from.
        device: Where models are trained and run.
        dtype: Number format of the measurements.
        train: Further ``key=value`` of the recipe for every arm.
        out: Folder of results, report and models.
    """

    encoders: list[str] = Field(default_factory=list)
    budget: Literal["smoke", "demo", "standard", "long"] = "standard"
    seeds: int = Field(default=1, ge=1)
    lrs: list[float] = Field(default_factory=list)
    suite: str = "openmoji"
    splits: list[str] = Field(default_factory=lambda: ["test_composition"], min_length=1)
    size: int = Field(default=1000, ge=2)
    image_size: int = Field(default=64, ge=8)
    vocabulary: str = "default"
    margin: float | None = Field(default=None, ge=0)
    metric: Literal["CIDEr-D"] = "CIDEr-D"
    generation: Generation = Field(default_factory=Generation)
    batch_size: int = Field(default=64, ge=1)
    n_latency: int = Field(default=16, ge=0)
    n_images: int = Field(default=24, ge=0)
    n_train: int = Field(default=2000, ge=1)
    device: str = "auto"
    dtype: str = "float32"
    train: list[str] = Field(default_factory=list)
    out: Path = Path("runs/compare")
