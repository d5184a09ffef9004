"""Your own images with captions: a folder with ``captions.jsonl`` (or ``metadata.jsonl``, as the hub calls it)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.hub import load_hub
from vislex.data.jsonl import iterate_jsonl
from vislex.data.locate import check_task, find_file, is_hub_id, local_root
from vislex.data.schemas import caption_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

FILE_FIELDS = ("file_name", "file", "image")
CAPTION_FIELDS = ("captions", "caption", "text")


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads ``{split}.jsonl``, ``{split}/metadata.jsonl``, ``captions.jsonl`` or ``metadata.jsonl`` of a folder.

    A line is ``{"file_name": "a.png", "captions": ["...", ...]}``; ``caption`` or ``text`` may hold one string, and
    ``id`` a name (the path without it). Where a line has a field ``split``, it decides. Parquet folders in the hub's
    layout work too.

    Args:
        task: "caption" or "images" (captions may then be missing).
        root: The folder, or a hub id.
        split: Name of the split.
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file``, ``captions``; ``image`` when read.

    Raises:
        ConfigError, DataError: For missing files, damaged lines, unsafe paths.
    """
    check_task("folder", task, ("caption", "images"))
    if root is not None and is_hub_id(root):
        return load_hub(root, "folder", split=split, size=size)
    folder = local_root("folder", root)
    if not any(folder.rglob("*.jsonl")) and any(folder.rglob("*.parquet")):
        return load_hub(folder, str(folder), split=split, size=size)
    names = [f"{split}.jsonl", f"{split}/metadata.jsonl", f"{split}/captions.jsonl", "captions.jsonl", "metadata.jsonl"]
    listing = find_file(folder, names, "list of images")
    base = listing.parent
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(iterate_jsonl(listing), 1):
        if row.get("split", split) != split:
            continue
        file = next((row[field] for field in FILE_FIELDS if isinstance(row.get(field), str)), None)
        captions: Any = next((row[field] for field in CAPTION_FIELDS if field in row), [] if task == "images" else None)
        if file is None or captions is None:
            raise DataError(
                f"{listing}: row {number} needs one of {', '.join(FILE_FIELDS)} and one of "
                f"{', '.join(CAPTION_FIELDS)}; it has {', '.join(row)}"
            )
        rows.append({"id": str(row.get("id", file)), "file": file, "captions": captions})
    return caption_dataset(rows, base, source=str(listing), size=size)
