"""Localized Narratives: spoken, paragraph-long descriptions of COCO, Flickr30k, ADE20K and Open Images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.hub import load_hub
from vislex.data.jsonl import iterate_jsonl
from vislex.data.locate import ImageFinder, check_task, is_hub_id, local_root, unknown_split
from vislex.data.schemas import caption_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

SPLITS = ("train", "val", "test")
FOLDERS = (
    "", "images", "train2017", "val2017", "images/train2017", "images/val2017", "flickr30k_images", "train", "val",
    "validation", "test", "images/train", "images/val", "images/validation", "images/test", "images/training",
)  # fmt: skip


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads Localized Narratives from ``*{split}*localized_narratives*.jsonl``, all shards, and the images.

    The narratives of one image are its captions; mouse traces and recordings are left out.

    Args:
        task: "caption".
        root: The folder, or a hub id.
        split: "train", "val" or "test".
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file``, ``captions``, ``dataset_id``; ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, damaged lines, unsafe paths.
    """
    check_task("localized_narratives", task)
    if root is not None and is_hub_id(root):
        return load_hub(root, "localized_narratives", split=split, size=size, keep=("dataset_id",))
    folder = local_root("localized_narratives", root)
    if split not in SPLITS:
        raise unknown_split("localized_narratives", split, SPLITS)
    word = {"val": "val*"}.get(split, split)  # Open Images writes "validation"
    shards = sorted(folder.rglob(f"*_{word}_*localized_narratives*.jsonl"))
    if not shards:
        raise DataError(f"'{folder}' has no *_{split}_*localized_narratives*.jsonl")
    finder = ImageFinder(folder, FOLDERS)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for shard in shards:
        for row in iterate_jsonl(shard, required=("dataset_id", "image_id", "caption")):
            key = (str(row["dataset_id"]), str(row["image_id"]))
            if key not in rows:
                file = finder(_file_name(*key), f"{shard}, image {key[1]!r}")
                rows[key] = {"id": key[1], "file": file, "captions": [], "dataset_id": key[0]}
            rows[key]["captions"].append(row["caption"])
    finder.check(str(folder))
    if len({identity for _, identity in rows}) < len(rows):  # several sources in one folder
        for dataset_id, identity in rows:
            rows[dataset_id, identity]["id"] = f"{dataset_id}/{identity}"
    return caption_dataset(rows.values(), folder, source=str(folder), size=size)


def _file_name(dataset_id: str, image_id: str) -> str:
    """COCO's 2017 files are the id in twelve digits; the others are the id."""
    is_coco = "coco" in dataset_id.lower() and image_id.isdigit()
    return f"{int(image_id):012d}.jpg" if is_coco else f"{image_id}.jpg"
