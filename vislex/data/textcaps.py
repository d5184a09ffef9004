"""TextCaps: 21,953 images to train, 3,166 val, 3,289 test, five captions each that read the text in the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.hub import load_hub
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.schemas import caption_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

SPLITS = ("train", "val", "test")
FOLDERS = ("", "images", "train_images", "test_images", "images/train", "images/test", "train", "test")


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads TextCaps from ``TextCaps_0.1_{split}.json`` and TextVQA's image folders.

    Args:
        task: "caption".
        root: The folder, or a hub id.
        split: "train", "val" or "test" (whose captions are not published: empty lists).
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file``, ``captions``; ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("textcaps", task)
    if root is not None and is_hub_id(root):
        return load_hub(root, "textcaps", split=split, size=size)
    if split not in SPLITS:
        raise unknown_split("textcaps", split, SPLITS)
    folder = local_root("textcaps", root)
    names = [f"TextCaps_0.1_{split}.json", f"**/TextCaps_*{split}.json"]
    annotations = find_file(folder, names, f"annotations of split '{split}'")
    document = read_json(annotations)
    finder = ImageFinder(folder, FOLDERS)
    rows: dict[str, dict[str, Any]] = {}
    try:
        for entry in document["data"]:  # one entry a caption; those of one image share its id
            identity = str(entry["image_id"])
            row = rows.get(identity)
            if row is None:
                where = f"{annotations}, image {identity}"
                path = str(entry.get("image_path") or f"{identity}.jpg")
                file = finder(path, where, path.rpartition("/")[2], f"{identity}.jpg")
                row = rows[identity] = {"id": identity, "file": file, "captions": []}
            texts = entry.get("reference_strs") or [entry.get("caption_str")]
            row["captions"] += [text for text in texts if text and text not in row["captions"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{annotations}: not of TextCaps' form (data[].image_id, reference_strs): {error}") from error
    finder.check(str(annotations))
    return caption_dataset(rows.values(), folder, source=str(annotations), size=size)
