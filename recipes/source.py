"""Where the captions of a recipe come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from vislex.data.sources import load_suite
from vislex.errors import ConfigError, VislexError
from vislex.training.captions import CaptionBank
from vislex.training.settings import TrainingSettings
from vislex.training.shards import ShardedPairs

__all__ = [
    "DataSettings",
    "PlannedCaptions",
    "StreamSettings",
    "captions_if_here",
    "column",
    "load_splits",
    "load_stream",
    "load_validation",
]

PLANNED = 1000  # captions that a plan measures


class StreamSettings(TrainingSettings):
    """Data that may be of any size.

    Attributes:
        data: A name of ``vislex list suites``, with its place behind a colon ("coco:/data/coco"), or a folder.
        train_split, val_split: Splits.
        stream: Whether the training split of data="shards:FOLDER" (tar or parquet files) is read in place, not held in
            memory; ``train_size`` then says nothing.
        stream_window: Files (row groups of parquet) that are mixed with each other, and kept open.
        bad_images: What is done with an image that cannot be read: "raise", or "skip": while streaming the next one is
            taken, else all are opened once before the training.
        max_bad_fraction: The largest share of skipped ones; above it the run fails.
    """

    data: str = "openmoji"
    train_split: str = "train"
    val_split: str = "val"
    stream: bool = False
    stream_window: int = Field(16, ge=1)
    bad_images: Literal["raise", "skip"] = "raise"
    max_bad_fraction: float = Field(0.01, ge=0, le=1)


class DataSettings(StreamSettings):
    """What is trained on.

    Attributes:
        data_options: Further options of the source (for openmoji: ``vocabulary``, ``style``, ``seed``).
        train_size: Images of the training split that are used; None takes all (openmoji: its default size).
    """

    data_options: dict[str, Any] = Field(default_factory=dict)
    train_size: int | None = Field(10000, ge=1)
    val_size: int | None = Field(200, ge=1)


def load_splits(config: DataSettings) -> tuple[Dataset, Dataset]:
    """The training and the validation split.

    Raises:
        ConfigError: If the training is to be streamed, which the recipe then does not do.
    """
    if config.stream:
        raise ConfigError("this recipe does not stream its data; siglip_pretrain, caption and vilex_pretrain do")
    return _load(config, config.train_split, config.train_size), load_validation(config)


def load_validation(config: DataSettings) -> Dataset:
    """The validation split."""
    return _load(config, config.val_split, config.val_size)


def _load(config: DataSettings, split: str, size: int | None) -> Dataset:
    kept: dict[str, Any] = {"bad_images": config.bad_images, "max_bad_fraction": config.max_bad_fraction}
    return load_suite(config.data, split=split, size=size, **{**kept, **config.data_options})


def load_stream(config: StreamSettings) -> ShardedPairs | None:
    """The training split as a stream, if the configuration asks for one.

    Raises:
        ConfigError: If the data cannot be streamed.
    """
    if not config.stream:
        return None
    name, _, root = config.data.partition(":")
    if name != "shards" or not root:
        raise ConfigError(f"stream=true reads data=shards:FOLDER (tar or parquet files); data is '{config.data}'")
    return ShardedPairs(
        root,
        config.train_split,
        bad_images=config.bad_images,
        max_bad_fraction=config.max_bad_fraction,
        window=config.stream_window,
    )


def column(dataset: Dataset, name: str) -> list[Any]:
    """A column without opening any image."""
    return list(dataset.with_format(None)[name])


def captions_if_here(config: DataSettings) -> list[list[str]] | None:
    """The training captions, for a plan: some of those of a stream; None where the data are not on this machine."""
    try:
        if (stream := load_stream(config)) is not None:
            return stream.captions(range(min(PLANNED, len(stream))))
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
            told = f"the captions of '{data}' are not read: they are taken at their longest, {max_length} tokens"
            return cls(max_length, max_length, [told])
        lengths = CaptionBank(references[:PLANNED], tokenizer, max_length=max_length).lengths
        return cls(round(float(lengths.mean())), int(lengths.max()))
