"""Where the captions of a recipe come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from vislex.data.sources import load_suite
from vislex.errors import VislexError
from vislex.training.captions import CaptionBank
from vislex.training.settings import TrainingSettings

__all__ = ["DataSettings", "PlannedCaptions", "captions_if_here", "column", "load_splits"]


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


def captions_if_here(config: DataSettings) -> list[list[str]] | None:
    """The training captions, for a plan; None where the data are not on this machine."""
    try:
        return column(
            load_suite(config.data, split=config.train_split, size=config.train_size, **config.data_options), "captions"
        )
    except (VislexError, OSError):
        return None


@dataclass(frozen=True)
class PlannedCaptions:
    """How long captions are in a plan, in tokens.

    Attributes:
        typical: Of a batch.
        longest: Of any batch.
        notes: What was assumed.
    """

    typical: int
    longest: int
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls, references: list[list[str]] | None, tokenizer: PreTrainedTokenizerFast, max_length: int, data: str
    ) -> PlannedCaptions:
        """Measured on some of the captions; the longest that are allowed where there are none."""
        if references is None:
            told = f"the data '{data}' are not here: captions are taken at their longest, {max_length} tokens"
            return cls(max_length, max_length, [told])
        lengths = CaptionBank(references[:1000], tokenizer, max_length=max_length).lengths
        return cls(round(float(lengths.mean())), int(lengths.max()))
