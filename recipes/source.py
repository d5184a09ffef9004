"""Where the captions of a recipe come from."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from pydantic import Field

from vislex.data.sources import load_suite
from vislex.training.settings import TrainingSettings

__all__ = ["DataSettings", "column", "load_splits"]


class DataSettings(TrainingSettings):
    """What is trained on.

    Attributes:
        data: A name of ``vislex list suites``, with its place behind a colon ("coco:/data/coco"), or a folder.
        data_options: Further options of the source (for openmoji: ``vocabulary``, ``style``, ``seed``).
        train_size: Images of the training split that are used; None takes all (openmoji: its default size).
    """

    data: str = "openmoji"
    data_options: dict[str, Any] = Field(default_factory=dict)
    train_split: str = "train"
    val_split: str = "val"
    train_size: int | None = Field(10000, ge=1)
    val_size: int | None = Field(200, ge=1)


def load_splits(config: DataSettings) -> tuple[Dataset, Dataset]:
    """The training and the validation split."""
    return (
        load_suite(config.data, split=config.train_split, size=config.train_size, **config.data_options),
        load_suite(config.data, split=config.val_split, size=config.val_size, **config.data_options),
    )


def column(dataset: Dataset, name: str) -> list[Any]:
    """A column without opening any image."""
    return list(dataset.with_format(None)[name])
