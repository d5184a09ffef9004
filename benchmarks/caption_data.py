"""The images and references that captioners are scored on, and the floors and the ceiling that belong to them."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vislex.benchmarks.results import DataRecord
from vislex.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CaptionData",
    "constant_caption",
    "data_uri",
    "from_dataset",
    "held_out_references",
    "load_caption_data",
    "load_suite_captions",
    "nearest_captions",
    "training_captions",
]


@dataclass
class CaptionData:
    """Rows with images and references.

    Attributes:
        record: What a result file keeps of them.
        rows: Rows with "image", in the order of ``record.ids``; images are read or drawn when asked for.
        factors: The suite's true factors by id; None for photographs.
        train: Training rows with "image" and "captions", for the floors; None where there are none.
    """

    record: DataRecord
    rows: Any
    factors: dict[str, dict[str, Any]] | None = None
    train: Any = None

    def __len__(self) -> int:
        return len(self.record.ids)

    @functools.cached_property
    def known_captions(self) -> list[str] | None:
        """Every caption of the training rows: against these a caption is novel or not."""
        if self.train is None:
            return None
        return list(dict.fromkeys(caption for row in _text_rows(self.train) for caption in row["captions"]))

    def chunks(self, size: int = 256) -> Iterator[list[Image]]:
        """Images in the order of the ids, a chunk in memory at a time."""
        for start in range(0, len(self), size):
            yield [self.rows[index]["image"] for index in range(start, min(start + size, len(self)))]

    def images(self, n: int) -> list[Image]:
        """The first ``n`` images."""
        return [self.rows[index]["image"] for index in range(min(n, len(self)))]


def load_suite_captions(
    suite: str = "openmoji",
    *,
    split: str = "test_composition",
    size: int = 1000,
    seed: int = 0,
    image_size: int = 64,
    n_images: int = 24,
    n_train: int = 2000,
    **options: Any,
) -> CaptionData:
    """Captioning rows of a suite.

    Args:
        suite: Name of the suite.
        split: Split to score on.
        size: Number of images.
        seed: Of the rows.
        image_size: Side in pixels at which images are drawn for the models.
        n_images: Images that the result file keeps for its report, drawn larger.
        n_train: Training rows that the floors may look at.
        **options: Further options of ``load_suite`` (``vocabulary``, ``style``).
    """
    from vislex.data import load_suite
    from vislex.data.sources import describe_source

    rows = load_suite(suite, "caption", split=split, size=size, seed=seed, image_size=image_size, **options)
    train = load_suite(suite, "caption", split="train", size=n_train, seed=seed, image_size=image_size, **options)
    n_shown = min(n_images, size)
    shown = load_suite(suite, "caption", split=split, size=max(1, n_shown), seed=seed, image_size=160, **options)
    ids, references, factors = [], {}, {}
    for row in _text_rows(rows):
        ids.append(row["id"])
        references[row["id"]] = list(row["captions"])
        factors[row["id"]] = json.loads(row["factors"])
    facts = describe_source(suite)
    record = DataRecord(
        name=suite,
        split=split,
        provenance={**facts.provenance, "seed": seed, "image_size": image_size, **options},
        ids=ids,
        references=references,
        images={row["id"]: data_uri(row["image"]) for row in itertools.islice(shown, n_shown)},
        attribution=facts.attribution,
    )
    return CaptionData(record, rows, factors, train)


def load_caption_data(
    name: str, *, split: str, size: int | None = None, seed: int = 0, n_images: int = 24, **options: Any
) -> CaptionData:
    """A suite by its name, or photographs as ``SOURCE:FOLDER`` ("coco:data/coco").

    Raises:
        UnknownNameError: If there is no such suite or source.
    """
    from vislex.data import load_suite

    source, colon, _ = name.partition(":")
    if not colon:
        return load_suite_captions(name, split=split, size=size or 1000, seed=seed, n_images=n_images, **options)
    return from_dataset(load_suite(name, split=split, size=size, **options), source, split, n_images=n_images)


def from_dataset(dataset: Any, name: str, split: str, *, size: int | None = None, n_images: int = 24) -> CaptionData:
    """Any data set with the caption schema: columns "id", "image" and "captions".

    Raises:
        DataError: If a column is missing.
    """
    from vislex.data.schemas import check_columns

    check_columns(dataset, "caption")
    rows = dataset if size is None or size >= len(dataset) else dataset.select(range(size))
    references = {str(row["id"]): list(row["captions"]) for row in _text_rows(rows)}
    ids = list(references)
    images = {ids[index]: data_uri(_small(rows[index]["image"])) for index in range(min(n_images, len(ids)))}
    provenance = {"fingerprint": getattr(rows, "_fingerprint", None)}
    record = DataRecord(name=name, split=split, ids=ids, references=references, images=images, provenance=provenance)
    return CaptionData(record, rows)


def constant_caption(captions: Sequence[str]) -> str:
    """The training caption nearest to all others: the best that a model blind to the image could always say.

    The caption whose 1- and 2-grams have the highest mean cosine with those of all captions.
    """
    bags = [Counter(_grams(caption)) for caption in captions]
    index = {gram: place for place, gram in enumerate(sorted(set().union(*bags)))}
    mean = np.zeros(len(index))
    norms = [float(np.sqrt(sum(count * count for count in bag.values()))) or 1.0 for bag in bags]
    for bag, norm in zip(bags, norms, strict=True):
        for gram, count in bag.items():
            mean[index[gram]] += count / norm
    scores = [
        sum(count * mean[index[gram]] for gram, count in bag.items()) / norm
        for bag, norm in zip(bags, norms, strict=True)
    ]
    return captions[int(np.argmax(scores))]


def nearest_captions(data: CaptionData, *, side: int = 8) -> list[str]:
    """The first caption of the training image with the nearest pixels: what copying gives, without any encoder.

    Args:
        data: Data with training rows.
        side: Images are compared at ``side`` x ``side`` pixels, by cosine after the mean is taken away.
    """
    if data.train is None:
        raise DataError(f"{data.record.name} has no training rows, so no nearest-neighbour floor; leave it out")
    known = _pixels((row["image"] for row in data.train), side)
    asked = np.concatenate([_pixels(chunk, side) for chunk in data.chunks()])
    mean = known.mean(axis=0)
    known, asked = _unit(known - mean), _unit(asked - mean)
    captions = training_captions(data)
    return [captions[place] for place in (asked @ known.T).argmax(axis=1)]


def training_captions(data: CaptionData) -> list[str]:
    """The first caption of every training row that the floors may look at."""
    return [row["captions"][0] for row in _text_rows(data.train)]


def held_out_references(record: DataRecord) -> tuple[dict[str, str], dict[str, list[str]]]:
    """One reference of every image as candidate, the others as its references: the ceiling.

    The held-out reference rotates with the row, so that no writer or template is favoured. Images with one reference
    are left out.
    """
    candidates, rest = {}, {}
    for place, identity in enumerate(record.ids):
        references = record.references[identity]
        if len(references) > 1:
            chosen = place % len(references)
            candidates[identity] = references[chosen]
            rest[identity] = [text for other, text in enumerate(references) if other != chosen]
    return candidates, rest


def data_uri(image: Image) -> str:
    """A PNG as a data URI."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _text_rows(rows: Any) -> Iterator[dict[str, Any]]:
    """Rows without their images: nothing is drawn or decoded."""
    columns = [name for name in ("id", "index", "captions", "factors") if name in rows.column_names]
    if not hasattr(rows, "with_transform"):
        return iter(rows)
    plain = rows.with_format(None)
    if "captions" in plain.column_names:
        return iter(plain.select_columns(columns))
    return ({key: value for key, value in row.items() if key != "image"} for row in rows)


def _grams(caption: str) -> list[tuple[str, ...]]:
    words = caption.lower().split()
    return [(word,) for word in words] + list(itertools.pairwise(words))


def _pixels(images: Any, side: int) -> np.ndarray:
    from PIL.Image import Resampling

    small = [np.asarray(image.convert("RGB").resize((side, side), Resampling.BOX), np.float32) for image in images]
    return np.stack(small).reshape(len(small), -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _small(image: Image, side: int = 240) -> Image:
    copy = image.convert("RGB")
    copy.thumbnail((side, side))
    return copy
