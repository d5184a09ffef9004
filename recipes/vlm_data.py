"""What vision-language models are trained on: a mixture of sources, their images encoded once where the encoder is
frozen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, Image, List, load_dataset
from pydantic import Field
from torch import Tensor

from vislex.adapters.instructions import (
    CAPTION_PROMPT,
    Example,
    caption_examples,
    from_messages,
    read_llava,
    segmentation_examples,
    vqa_examples,
)
from vislex.adapters.turns import TurnBank
from vislex.adapters.vlm import VisionLanguageModel
from vislex.config import Config
from vislex.data.schemas import OpenImages
from vislex.data.sources import describe_source, load_suite
from vislex.errors import ConfigError, DataError
from vislex.modules.tail_drop import TailDrop, keep_counts
from vislex.segmentation.codec import MaskCodec
from vislex.segmentation.seg_head import SegHeadCodec
from vislex.specs import token_count
from vislex.training.captions import generator
from vislex.training.features import FeatureStore, cached_features

logger = logging.getLogger(__name__)

__all__ = ["Mixture", "SourceSettings", "load_source"]


class SourceSettings(Config):
    """One source of a mixture.

    Attributes:
        task: "caption", "vqa" or "segmentation" of a suite, or "chat": LLaVA's JSON or a chat data set.
        data: A suite as ``load_suite`` takes it; for "chat" a file (.json, .jsonl), a folder or a hub id.
        size: Rows; None takes the recipe's ``train_size``.
        bad_images: What is done with a row whose image cannot be read: "raise", or "skip": all are then opened once.
        max_bad_fraction: The largest share of skipped rows; above it the run fails.
        prompt: What asks for a caption.
        options: Further options of the suite (``vocabulary``, ``style``, ``seed``); for "chat" ``root``, the folder of
            LLaVA's images.
    """

    task: Literal["caption", "vqa", "segmentation", "chat"] = "caption"
    data: str = "openmoji"
    size: int | None = Field(None, ge=1)
    bad_images: Literal["raise", "skip"] = "raise"
    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    prompt: str = CAPTION_PROMPT
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The examples of a source; their images are rows of ``images``.

    Attributes:
        groups: For each row of the data its examples, of which one is drawn at a time.
        images: Rows with an ``image``.
        provenance: What the images are made of.
    """

    groups: list[list[Example]]
    images: Dataset
    provenance: dict[str, Any]


def load_source(settings: SourceSettings, split: str, size: int | None, codec: MaskCodec | None = None) -> Source:
    """Reads a source.

    Args:
        settings: Which.
        split: Its split.
        size: Rows, where the settings name none.
        codec: The mask codec that writes the answers of "segmentation".

    Raises:
        ConfigError: If there are masks to write and no codec.
        DataError: If a row is damaged.
    """
    size = settings.size or size
    if settings.task == "chat":
        return _chat(settings, split, size)
    kept: dict[str, Any] = {"bad_images": settings.bad_images, "max_bad_fraction": settings.max_bad_fraction}
    rows = load_suite(settings.data, settings.task, split=split, size=size, **kept, **settings.options)
    plain = rows.with_format(None)
    if settings.task == "caption":
        groups = [caption_examples(own, i, settings.prompt) for i, own in enumerate(plain["captions"])]
    elif settings.task == "vqa":
        groups = [vqa_examples(row, i) for i, row in enumerate(plain)]
    elif codec is None:
        raise ConfigError("the task 'segmentation' needs a codec that writes its masks")
    else:
        target = codec.target if isinstance(codec, SegHeadCodec) else None
        groups = [segmentation_examples(rows[i], i, codec.encode, target) for i in range(len(rows))]
    return Source(groups, rows, describe_source(settings.data).provenance)


def _chat(settings: SourceSettings, split: str, size: int | None) -> Source:
    path = Path(settings.data)
    if path.suffix in (".json", ".jsonl"):
        examples = read_llava(path, settings.options.get("root"))[:size]
        files: Any = [{"path": str(file), "bytes": None} for example in examples for file in example.images]
        images = Dataset.from_dict({"source": files})
        root = str(settings.options.get("root") or path.parent)
    else:
        rows = load_dataset(settings.data, split=split)
        rows = rows.select(range(min(size or len(rows), len(rows))))
        rows = _undecoded(rows)
        column = next((name for name in ("images", "image") if name in rows.column_names), None)
        if column is None:
            raise DataError(f"'{settings.data}' has no column 'images'; it has {', '.join(rows.column_names)}")
        many = column == "images"
        texts = rows.remove_columns(column)
        counts = [len(own) if many else 1 for own in rows[column]]
        examples = [
            from_messages({**row, "images": ["image"] * count}, f"{settings.data}, row {i}")
            for i, (row, count) in enumerate(zip(texts, counts, strict=True))
        ]
        images = rows.select_columns(column).map(
            lambda batch: {"source": [i for own in batch[column] for i in own] if many else batch[column]},
            batched=True,
            remove_columns=[column],
        )
        root = settings.data
    images = images.with_transform(OpenImages(root))
    if settings.bad_images == "skip":
        examples = _readable(examples, images, settings)
        images = images.select([row for example in examples for row in example.images])
    return Source([[own] for own in _numbered(examples)], images, {"suite": settings.data})


def _undecoded(rows: Dataset) -> Dataset:
    """Images as bytes or paths: they are opened under our own caps."""
    for name, kind in rows.features.items():
        if isinstance(kind, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(kind, List) and isinstance(kind.feature, Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    return rows


def _numbered(examples: Sequence[Example]) -> list[Example]:
    """The examples with the rows of their images, which lie one after the other."""
    numbers = iter(range(sum(len(own.images) for own in examples)))
    return [replace(own, images=tuple(next(numbers) for _ in own.images)) for own in examples]


def _readable(examples: Sequence[Example], images: Dataset, settings: SourceSettings) -> list[Example]:
    """The examples whose images can all be read.

    Raises:
        DataError: If more than ``max_bad_fraction`` cannot.
    """
    good, problems = [], []
    for example in _numbered(examples):
        try:
            for row in example.images:
                images[row]
        except DataError as error:
            problems.append(str(error))
            logger.warning("skipped: %s", error)
        else:
            good.append(example)
    if len(problems) > settings.max_bad_fraction * len(examples) or not good:
        raise DataError(
            f"{len(problems)} of {len(examples)} rows of '{settings.data}' have images that cannot be read, more than "
            f"max_bad_fraction = {settings.max_bad_fraction:g} allows; the first: {next(iter(problems), '-')}"
        )
    return good


class Mixture:
    """Training batches of several sources: one row each, one example of its row.

    Args:
        model: With its processor; its encoder is run once over all images if ``cached``.
        sources: The sources.
        cached: Whether the encoder is frozen and its tokens are kept.
        max_length: See ``TurnBank``.
        pack_length: Tokens of a row that dialogues share; 0 pads each dialogue instead.
        tail_drop: How the number of tokens of a batch's images is drawn, for connectors with a budget.
        seed: Of what is drawn.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        sources: Sequence[Source],
        *,
        cached: bool,
        max_length: int = 512,
        pack_length: int = 0,
        tail_drop: TailDrop = "none",
        seed: int = 0,
    ) -> None:
        self.model, self.sources = model, sources
        self.processor = model.processor
        self.pack_length, self.tail_drop, self.seed = pack_length, tail_drop, seed
        self.connector = self.processor.connector_config
        self.full = token_count(self.connector.count(self.connector.encoder_spec.n_tokens)) if self._has_budget else 0
        if tail_drop != "none" and not self._has_budget:
            raise ConfigError(f"tail_drop={tail_drop} needs a connector with a budget at run time: attention_pool")
        groups = [(number, own) for number, source in enumerate(sources) for own in source.groups]
        self.examples = [(number, example) for number, own in groups for example in own]
        self.starts = np.cumsum([0, *(len(own) for _, own in groups)])
        template, tokenizer = self.processor.chat_template, self.processor.tokenizer
        turns = [example.turns for _, example in self.examples]
        self.bank = TurnBank(turns, tokenizer, template=template, max_length=max_length)
        self.stores: list[FeatureStore] | None = None
        if cached:
            self.stores = [
                cached_features(model.encoder, s.images, self.processor.image_processor, provenance=s.provenance)
                for s in sources
            ]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def fetch(self, rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        """Inputs of the model for rows int64[B] at positions int64[B] of the training."""
        draws = [generator(self.seed, int(position)) for position in positions]
        chosen = np.array(
            [int(g.integers(self.starts[row], self.starts[row + 1])) for g, row in zip(draws, rows, strict=True)]
        )
        return self.batch(chosen, self._drawn_budget(int(positions[0])))

    def batch(self, chosen: np.ndarray, budget: int | None = None) -> dict[str, Any]:
        """Inputs of the model for examples int64[B], with ``budget`` tokens an image where the connector has one."""
        images = [(self.examples[i][0], image) for i in chosen for image in self.examples[i][1].images]
        vision, counts = self._vision(images, budget)
        each = iter(counts)
        own = [[next(each) for _ in self.examples[i][1].images] for i in chosen]
        options = {} if budget is None or not images else {"n_tokens": budget}
        others = {**vision, **options, **self._masks(chosen)}
        if self.pack_length:
            return {**self.bank.packed(chosen, own, self.pack_length), **others}
        return {**self.bank.batch(chosen, own), **others}

    def _masks(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """What ``<SEG>`` stands for in examples int64[B], where ``max_length`` has not cut it off."""
        if self.model.mask_head is None:
            return {}
        token = self.model.mask_head.settings.token_id
        found = [i for i in chosen if token in self.bank.ids[i][self.bank.learned[i]]]
        masks = [mask for i in found if (mask := self.examples[i][1].mask) is not None]
        return {"masks": torch.from_numpy(np.stack(masks)).float()} if masks else {}

    @property
    def _has_budget(self) -> bool:
        return self.connector.model_type == "vislex_connector_attention_pool"

    def _drawn_budget(self, position: int) -> int | None:
        if self.tail_drop == "none":
            return None
        seed = int(generator(self.seed, position, "tail_drop").integers(2**31))
        return int(keep_counts(self.tail_drop, self.full, 1, generator=torch.Generator().manual_seed(seed)))

    def _vision(self, images: list[tuple[int, int]], budget: int | None) -> tuple[dict[str, Tensor], list[int]]:
        """Inputs of images (source, row), and the number of tokens that each gives."""
        if not images:
            return {}, []
        spec = self.connector.encoder_spec
        if self.stores is None:
            opened = [self.sources[source].images[row]["image"] for source, row in images]
            inputs = dict(self.processor.image_processor(opened, return_tensors="pt"))
            found = [spec.count(inputs, i) for i in range(len(images))]
        else:
            parts = [self.stores[source].tokens([row]) for source, row in images]
            inputs = {"vision_tokens": torch.cat([part.tokens for part in parts]).float()}
            found = [spec.count()] * len(images) if not spec.variable_length else []
            if spec.variable_length:
                masks = torch.cat([part.mask for part in parts if part.mask is not None])
                inputs["vision_mask"] = masks
                found = [int(mask.sum()) for mask in masks]
        return inputs, [token_count(self.connector.count(count, budget)) for count in found]
