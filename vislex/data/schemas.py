"""The columns of a task's data sets, and how rows of files become one.

A caption data set is a ``datasets.Dataset`` of plain rows (``id``, ``index``, ``file``, ``captions`` and what the
source adds); a picklable transform opens ``image`` from ``file`` when a row is read. Nothing is decoded before.
"""

from __future__ import annotations

import collections
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.images import decode_image, load_image
from vislex.data.paths import check_relative, safe_join
from vislex.errors import ConfigError, DataError, ImageError

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from PIL.Image import Image

__all__ = [
    "BAD_IMAGE_POLICIES",
    "COLUMNS",
    "OpenImages",
    "SourceFacts",
    "caption_dataset",
    "check_columns",
    "drop_bad_images",
    "most_common",
    "plain_dataset",
    "plain_features",
    "segmentation_dataset",
    "vqa_dataset",
    "vqa_row",
]

logger = logging.getLogger(__name__)

# task: columns that every data set of it gives once its images are opened
COLUMNS: dict[str, tuple[str, ...]] = {
    "caption": ("id", "index", "image", "captions"),
    "vqa": ("id", "index", "image", "question", "answer", "answers", "question_type"),
    "segmentation": ("id", "index", "image", "expression", "mask"),
    "images": ("id", "index", "image"),
}
BAD_IMAGE_POLICIES = ("raise", "skip")


@dataclass(frozen=True)
class SourceFacts:
    """What a result or a model card says of a data set.

    Attributes:
        provenance: What identifies it: ``{"suite": name, ...}`` with the hashes of what it is made of.
        trained_on: Half a sentence for the card of a model: the images, and what follows for the weights.
        attribution: The credit line of a page that shows its images; None if there is none.
    """

    provenance: dict[str, Any]
    trained_on: str
    attribution: str | None = None


@dataclass(frozen=True)
class OpenImages:
    """A transform for ``Dataset.with_transform``: adds ``image`` (PIL RGB) to a batch that has ``file`` or ``source``.

    Attributes:
        root: Folder that the paths in ``file`` start from, and that those in ``source`` (a hub's image column,
            ``{"bytes", "path"}``) must lie in.
    """

    root: str

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        opened = dict(batch)
        if "source" in opened:
            opened["image"] = [self.decode(source or {}) for source in opened.pop("source")]
        elif "file" in opened:
            opened["image"] = [self.open(name) for name in batch["file"]]
        return opened

    def open(self, name: str) -> Image:
        """Opens one image by the path in its row.

        Raises:
            ImageError: If it cannot be read.
            DataError: If the path leaves the root.
        """
        return load_image(safe_join(self.root, name, "this data set"))

    def decode(self, source: Mapping[str, Any]) -> Image:
        """Opens one image from a hub's image column.

        Raises:
            ImageError: If it cannot be read.
            DataError: If it is a path outside the root.
        """
        path = source.get("path")
        if source.get("bytes") is not None:
            return decode_image(source["bytes"], path or "an image of this data set")
        if not path or not Path(path).resolve().is_relative_to(Path(self.root).resolve()):
            raise DataError(f"a row names the image {path!r}, which is not in '{self.root}'")
        return load_image(path)


def caption_dataset(
    rows: Iterable[Mapping[str, Any]], root: str | Path, *, source: str, size: int | None = None
) -> Dataset:
    """Makes a caption data set from rows of a file.

    Args:
        rows: ``id`` (a string), ``file`` (relative to ``root``), ``captions`` (a list of strings) and any further
            plain columns, the same in every row.
        root: Folder of the images.
        source: What an error names.
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows with ``index`` added, images opened when read.

    Raises:
        DataError: If there is no row, an id repeats, a path is unsafe, or captions are missing or empty.
    """
    checked = ({**row, "captions": _captions(row["captions"], f"{source}, image {row['id']!r}")} for row in rows)
    return plain_dataset(checked, root, source=source, size=size)


def vqa_dataset(
    rows: Iterable[Mapping[str, Any]], root: str | Path, *, source: str, size: int | None = None
) -> Dataset:
    """Makes a data set of questions from rows of a file.

    Args:
        rows: ``id``, ``file``, ``question``, ``answers`` (all human answers; empty where they are not published),
            ``question_type``, and optionally ``answer`` (else the most common one) and further plain columns.
        root: Folder of the images.
        source: What an error names.
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows with ``index`` and ``answer`` added, images opened when read.

    Raises:
        DataError: If there is no row, an id repeats, a path is unsafe, or a question is no text.
    """

    return plain_dataset((vqa_row(row, source) for row in rows), root, source=source, size=size)


def vqa_row(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A checked row of a data set of questions, with ``answer``.

    Raises:
        DataError: If question, answers or type are no texts, or the question is empty.
    """
    texts = [row["question"], row["question_type"], *row["answers"]]
    if not all(isinstance(text, str) for text in texts) or not row["question"].strip():
        raise DataError(f"{source}, question {row['id']!r}: question, answers and question_type must be texts")
    return {"answer": most_common(row["answers"]), **row, "question": row["question"].strip()}


def segmentation_dataset(
    rows: Iterable[Mapping[str, Any]], root: str | Path, *, source: str, size: int | None = None
) -> Dataset:
    """Makes a referring segmentation data set from rows of a file.

    Args:
        rows: ``id``, ``file``, ``expression``, ``segmentation`` (COCO's polygons or run lengths as JSON text),
            ``height``, ``width``, and further plain columns.
        root: Folder of the images.
        source: What an error names.
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows with ``index``; ``image`` and ``mask`` (bool[H, W]) when read.

    Raises:
        DataError: If there is no row, an id repeats or a path is unsafe.
    """
    from vislex.data.coco_masks import OpenMasks

    return plain_dataset(rows, root, source=source, size=size, transform=OpenMasks)


def plain_dataset(
    rows: Iterable[Mapping[str, Any]],
    root: str | Path,
    *,
    source: str,
    size: int | None = None,
    transform: Callable[[str], OpenImages] = OpenImages,
) -> Dataset:
    """Makes a data set of plain rows with ``id`` and ``file`` whose images are opened when they are read.

    Args:
        rows: Of one row to the next the same columns: texts, numbers, or lists of texts.
        root: Folder of the images.
        source: What an error names.
        size: Number of rows, the first ones; None takes all.
        transform: Called with the root, gives what opens a batch.

    Raises:
        DataError: If there is no row, an id repeats, a path is unsafe or a value is of another kind.
    """
    from datasets import Dataset

    listed: list[dict[str, Any]] = []
    seen: set[str] = set()
    for index, row in enumerate(itertools.islice(rows, size)):
        identity = str(row["id"])
        if identity in seen:
            raise DataError(f"{source}: id {identity!r} is there twice; ids must differ")
        seen.add(identity)
        file = check_relative(str(row["file"]), f"{source}, row {identity!r}")
        listed.append({**row, "id": identity, "index": index, "file": file})
    if not listed:
        raise DataError(f"{source}: no rows for this split")
    opened = transform(str(Path(root).absolute()))
    try:
        dataset = Dataset.from_list(listed, features=plain_features(listed[0]))
    except (ValueError, TypeError, OverflowError) as error:  # those of pyarrow are these
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{source}: a field holds another kind of value than in the first row: {reason}") from error
    return dataset.with_transform(opened)


def plain_features(row: Mapping[str, Any]) -> Features:
    """The types of plain columns: whole numbers, lists of texts, and texts."""
    from datasets import Features, List, Value

    kinds: dict[type, Any] = {int: Value("int64"), list: List(Value("string"))}
    return Features({name: kinds.get(type(value), Value("string")) for name, value in row.items()})


def most_common(answers: Iterable[str]) -> str:
    """The answer given most often, the first of several; "" for none."""
    counted = collections.Counter(answers).most_common(1)
    return counted[0][0] if counted else ""


def drop_bad_images(dataset: Dataset, *, max_bad_fraction: float = 0.01) -> tuple[Dataset, list[str]]:
    """Opens every image once and keeps the rows whose image can be read.

    Args:
        dataset: A data set with an ``OpenImages`` transform.
        max_bad_fraction: Largest share of rows that may be dropped.

    Returns:
        The rows that are left (``index`` unchanged), and one line for each image that was dropped.

    Raises:
        DataError: If more than ``max_bad_fraction`` of the images are bad.
    """
    if not 0 <= max_bad_fraction <= 1:
        raise ConfigError(f"max_bad_fraction is {max_bad_fraction}; it must be between 0 and 1")
    good, problems = [], []
    for position in range(len(dataset)):
        try:
            dataset[position]
        except (ImageError, DataError) as error:
            problems.append(str(error))
            logger.warning("skipped: %s", error)
        else:
            good.append(position)
    if len(problems) > max_bad_fraction * len(dataset) or not good:
        raise DataError(
            f"{len(problems)} of {len(dataset)} images cannot be read, more than max_bad_fraction = "
            f"{max_bad_fraction:g} allows; the first: {problems[0]}"
        )
    return (dataset.select(good) if problems else dataset), problems


def check_columns(dataset: Dataset, task: str) -> None:
    """Checks that a data set gives the columns of a task.

    Raises:
        ConfigError: If there is no such task.
        DataError: If a column is missing from the first row.
    """
    if task not in COLUMNS:
        raise ConfigError(f"unknown task '{task}'; tasks are {', '.join(COLUMNS)}")
    first = dataset[0] if len(dataset) else {}
    if missing := [column for column in COLUMNS[task] if column not in first]:
        raise DataError(f"a {task} data set needs {', '.join(COLUMNS[task])}; missing: {', '.join(missing)}")


def _captions(value: Any, where: str) -> list[str]:
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: captions must be a string or a list of strings, got {type(value).__name__}")
    return [" ".join(caption.split()) for caption in captions if caption.strip()]
