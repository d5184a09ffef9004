"""Caption data sets from a hub id (or a local folder in the hub's layout): columns are found by their usual names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.locate import unknown_split
from vislex.data.schemas import OpenImages
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_hub"]

CAPTION_COLUMNS = (
    "captions", "caption", "sentences_raw", "sentences", "annotations_captions", "reference_strs", "references",
    "answer", "text",
)  # fmt: skip
ID_COLUMNS = ("id", "image_id", "img_id", "imgid", "cocoid", "filename", "file_name")
SPLIT_ALIASES = {"val": ("val", "validation", "dev"), "train": ("train",), "test": ("test",)}


def load_hub(
    place: str | Path,
    name: str,
    *,
    split: str,
    size: int | None = None,
    keep: tuple[str, ...] = (),
    **options: Any,
) -> Dataset:
    """Loads a caption data set that ``datasets.load_dataset`` can open.

    Args:
        place: "ORG/NAME" or "hub:ORG/NAME", or a folder with parquet files.
        name: What errors call it.
        split: "train", "val" or "test"; a hub's "validation" answers for "val". A hub set that has one split with a
            column ``split`` (as Karpathy's have) is filtered by it.
        size: Number of rows, the first ones; None takes all.
        keep: Further columns to keep as strings where they are there ("domain").
        **options: Handed on: ``revision``, ``cache_dir``. Code from the hub is never run.

    Returns:
        Rows ``id, index, captions`` and ``keep``; ``image`` is decoded when a row is read.

    Raises:
        DataError: If it cannot be loaded or has no image or caption column.
    """
    import datasets
    import huggingface_hub

    where = str(place).removeprefix("hub:")
    try:
        found = datasets.load_dataset(where, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data set '{name}' cannot be loaded from '{where}': {reason}") from error
    table = _pick_split(found, name, split)
    if size is not None:
        table = table.select(range(min(size, len(table))))
    image = next((column for column, feature in table.features.items() if isinstance(feature, datasets.Image)), None)
    captions = next((column for column in CAPTION_COLUMNS if column in table.features), None)
    if image is None or captions is None:
        raise DataError(
            f"data set '{where}' has the columns {', '.join(table.column_names)}: it needs an image column and one of "
            f"{', '.join(CAPTION_COLUMNS)}"
        )
    identity = next((column for column in ID_COLUMNS if column in table.features), None)

    def plain(row: dict[str, Any], index: int) -> dict[str, Any]:
        name = str(row[identity]) if identity else str(index)
        texts = {"id": name, "index": index, "captions": _texts(row[captions])}
        return texts | {column: str(row[column]) for column in keep if column in row}

    rows = table.remove_columns(image)  # the images stay where they are: only texts are copied
    texts = rows.map(plain, with_indices=True, remove_columns=rows.column_names)
    if len(set(texts["id"])) < len(texts):
        raise DataError(f"data set '{where}': column '{identity}' repeats ids in split '{split}'")
    images = table.select_columns(image).cast_column(image, datasets.Image(decode=False)).rename_column(image, "source")
    root = where if Path(where).is_dir() else huggingface_hub.constants.HF_HOME
    return datasets.concatenate_datasets([texts, images], axis=1).with_transform(OpenImages(str(Path(root).absolute())))


def _pick_split(found: Any, name: str, split: str) -> Any:
    names = [alias for alias in SPLIT_ALIASES.get(split, (split,)) if alias in found]
    whole = next(iter(found.values()))
    if len(found) == 1 and "split" in whole.features:
        known = set(whole["split"])
        aliases = {"train": {"train", "restval"}}.get(split, set(SPLIT_ALIASES.get(split, (split,))))
        if not known & aliases:
            raise unknown_split(name, split, known)
        column = whole["split"]
        return whole.select([index for index, value in enumerate(column) if value in aliases])
    if not names:
        raise unknown_split(name, split, list(found))
    return found[names[0]]


def _texts(value: Any) -> list[str]:
    """Captions from a string, a list of strings, or a list of records with ``raw`` or ``caption``."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):  # older files hold a record of lists
        value = value.get("raw") or value.get("caption") or []
    return [item if isinstance(item, str) else str(item.get("raw") or item.get("caption")) for item in value]
