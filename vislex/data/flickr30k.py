"""Flickr30k: 29,000 images to train, 1,014 val, 1,000 test (Karpathy's splits), five captions each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.coco import read_karpathy
from vislex.data.hub import load_hub
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.schemas import caption_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

FOLDERS = ("", "images", "flickr30k_images", "flickr30k-images", "flickr30k_images/flickr30k_images", "Images")
ANNOTATIONS = (
    "dataset_flickr30k.json", "flickr_annotations_30k.csv", "results.csv", "results_20130124.token",
    "**/dataset_flickr30k.json", "**/flickr_annotations_30k.csv", "**/results.csv", "**/results_20130124.token",
)  # fmt: skip


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads Flickr30k from any of its annotation files.

    ``dataset_flickr30k.json`` (Karpathy) and ``flickr_annotations_30k.csv`` hold the splits; ``results.csv`` and
    ``results_20130124.token`` do not: all their rows are the split "all".

    Args:
        task: "caption".
        root: The folder, or a hub id.
        split: "train", "val", "test", or "all" where the file has no splits.
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file``, ``captions``; ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("flickr30k", task)
    if root is not None and is_hub_id(root):
        return load_hub(root, "flickr30k", split=split, size=size)
    folder = local_root("flickr30k", root)
    annotations = find_file(folder, ANNOTATIONS, "annotations")
    finder = ImageFinder(folder, FOLDERS)
    if annotations.suffix == ".json":
        rows = list(read_karpathy(annotations, "flickr30k", split, {split}, finder))
    else:
        rows = list(_read_table(annotations, split, finder))
    finder.check(str(annotations))
    return caption_dataset(rows, folder, source=str(annotations), size=size)


def _read_table(annotations: Path, split: str, finder: ImageFinder) -> Iterator[dict[str, Any]]:
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    try:
        with annotations.open(encoding="utf-8-sig", newline="") as stream:
            if annotations.name == "flickr_annotations_30k.csv":
                for row in csv.DictReader(stream):
                    name = str(row["filename"])
                    captions[name], splits[name] = json.loads(row["raw"]), str(row["split"])
            else:
                separator = "|" if annotations.suffix == ".csv" else "\t"
                for number, line in enumerate(stream, 1):
                    _add_line(captions, line, separator, number, annotations)
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{annotations}: damaged or of another form: {type(error).__name__} {error}") from error
    known = set(splits.values()) or {"all"}
    if split not in known:
        raise unknown_split("flickr30k", split, known)
    for name, texts in captions.items():
        if splits.get(name, "all") == split:
            where = f"{annotations}, image {name!r}"
            yield {"id": name.rpartition(".")[0] or name, "file": finder(name, where), "captions": texts}


def _add_line(captions: dict[str, list[str]], line: str, separator: str, number: int, annotations: Path) -> None:
    """Adds ``name.jpg| 0| text`` (results.csv) or ``name.jpg#0<tab>text`` (results_20130124.token)."""
    if not line.strip() or (number == 1 and line.startswith("image_name")):
        return
    name, found, rest = line.rstrip("\n").partition(separator)
    text = rest.partition("|")[2] if separator == "|" else rest
    if separator == "|" and "|" not in rest:  # one row of the published file lacks its second separator
        text = rest.lstrip(" 0123456789")
    if not found or not text.strip():
        raise DataError(f"{annotations}:{number}: expected an image name and a caption separated by {separator!r}")
    captions.setdefault(name.partition("#")[0].strip(), []).append(text)
