"""Data sets from a hub id (or a local folder in the hub's layout): columns are found by their usual names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.locate import unknown_split
from vislex.data.refcoco_splits import held_out_images
from vislex.data.schemas import OpenImages, most_common, plain_features, vqa_row
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_hub", "load_hub_rows", "load_vqa_hub"]

CAPTION_COLUMNS = (
    "captions", "caption", "sentences_raw", "sentences", "annotations_captions", "reference_strs", "references",
    "answer", "text",
)  # fmt: skip
QUESTION_IDS = ("question_id", "questionId", "id", "qid")
ANSWER_COLUMNS = ("answers", "answer", "multiple_choice_answer")
TYPE_COLUMNS = ("question_type", "answer_type", "types", "category")
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
    table, image, where = _open(place, name, split, options)
    if size is not None:
        table = table.select(range(min(size, len(table))))
    captions = _column(table, CAPTION_COLUMNS, where)
    identity = next((column for column in ID_COLUMNS if column in table.features), None)

    def plain(row: dict[str, Any], index: int) -> dict[str, Any]:
        name = str(row[identity]) if identity else str(index)
        texts = {"id": name, "index": index, "captions": _texts(row[captions])}
        return texts | {column: str(row[column]) for column in keep if column in row}

    rows = table.remove_columns(image)  # the images stay where they are: only texts are copied
    texts = rows.map(plain, with_indices=True, remove_columns=rows.column_names)
    if len(set(texts["id"])) < len(texts):
        raise DataError(f"data set '{where}': column '{identity}' repeats ids in split '{split}'")
    return _with_images(texts, table, image, where, OpenImages)


def load_hub_rows(
    place: str | Path,
    name: str,
    convert: Callable[[Mapping[str, Any], str], Iterable[dict[str, Any]]],
    *,
    split: str,
    size: int | None = None,
    needs: Sequence[str] = (),
    transform: Callable[[str], OpenImages] = OpenImages,
    **options: Any,
) -> Dataset:
    """Loads a data set whose rows are made of a hub's rows by a function.

    Args:
        place: As for ``load_hub``.
        name: What errors call it.
        convert: Called with a row without its image, and its position as text; gives the rows that it makes, each with
            an ``id``, and all with the same columns.
        split: As for ``load_hub``.
        size: Number of rows, the first ones; None takes all.
        needs: Columns that ``convert`` reads.
        transform: Called with the root, gives what opens a batch.
        **options: As for ``load_hub``.

    Raises:
        DataError: If it cannot be loaded, lacks a column, has a row of another form, or repeats an id.
    """
    import datasets

    table, image, where = _open(place, name, split, options)
    if missing := [column for column in needs if column not in table.features]:
        raise DataError(
            f"data set '{where}' has the columns {', '.join(table.column_names)}: missing {', '.join(missing)}"
        )
    rows: list[dict[str, Any]] = []
    positions: list[int] = []
    for position, row in enumerate(table.remove_columns(image)):
        try:
            made = list(convert(row, str(position)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"data set '{where}', row {position} of split '{split}': {error}") from error
        rows += made
        positions += [position] * len(made)
        if size is not None and len(rows) >= size:
            break
    rows, positions = rows[:size], positions[:size]
    if not rows:
        raise DataError(f"data set '{where}': no rows for split '{split}'")
    if len({row["id"] for row in rows}) < len(rows):
        raise DataError(f"data set '{where}' repeats ids in split '{split}'")
    rows = [{**row, "index": index} for index, row in enumerate(rows)]
    plain = datasets.Dataset.from_list(rows, features=plain_features(rows[0]))
    return _with_images(plain, table.select(positions), image, where, transform)


def load_vqa_hub(
    place: str | Path,
    name: str,
    *,
    split: str,
    size: int | None = None,
    without_refcoco: str | Path | None = None,
    **options: Any,
) -> Dataset:
    """Loads a data set of questions that ``datasets.load_dataset`` can open.

    Args:
        place: As for ``load_hub``.
        name: What errors call it.
        split: As for ``load_hub``.
        size: Number of rows, the first ones; None takes all.
        without_refcoco: Folder of RefCOCO/+/g: the images of their val and test splits are left out, by the column
            ``image_id``.
        **options: As for ``load_hub``.

    Returns:
        Rows as ``vqa_dataset`` has them.

    Raises:
        DataError: If it cannot be loaded or lacks a column.
    """
    held_out = held_out_images(without_refcoco)

    def convert(row: Mapping[str, Any], position: str) -> Iterable[dict[str, Any]]:
        if held_out and int(row["image_id"]) in held_out:
            return
        identity = next((str(row[column]) for column in QUESTION_IDS if column in row), position)
        given: Any = next((row[column] for column in ANSWER_COLUMNS if row.get(column) is not None), [])
        answers = [given] if isinstance(given, str) else [a if isinstance(a, str) else a["answer"] for a in given]
        kind = next((row[column] for column in TYPE_COLUMNS if row.get(column)), "")
        kind = kind.get("structural", "") if isinstance(kind, dict) else kind
        answer = row.get("multiple_choice_answer") or most_common(answers)
        made = {
            "id": identity,
            "question": row["question"],
            "answer": answer,
            "answers": answers,
            "question_type": kind,
        }
        yield vqa_row(made, f"data set '{place}'")

    needs = ("question", "image_id") if held_out else ("question",)
    return load_hub_rows(place, name, convert, split=split, size=size, needs=needs, **options)


def _open(place: str | Path, name: str, split: str, options: Mapping[str, Any]) -> tuple[Any, str, str]:
    """The table of a split, the name of its image column, and the place."""
    import datasets

    where = str(place).removeprefix("hub:")
    try:
        found = datasets.load_dataset(where, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data set '{name}' cannot be loaded from '{where}': {reason}") from error
    table = _pick_split(found, name, split)
    image = next((column for column, feature in table.features.items() if isinstance(feature, datasets.Image)), None)
    if image is None:
        raise DataError(f"data set '{where}' has the columns {', '.join(table.column_names)}: it needs an image column")
    return table, image, where


def _column(table: Any, names: Sequence[str], where: str) -> str:
    found = next((column for column in names if column in table.features), None)
    if found is None:
        raise DataError(
            f"data set '{where}' has the columns {', '.join(table.column_names)}: it needs one of {', '.join(names)}"
        )
    return found


def _with_images(rows: Any, table: Any, image: str, where: str, transform: Callable[[str], OpenImages]) -> Dataset:
    """Plain rows beside the undecoded images of a table of the same length."""
    import datasets
    import huggingface_hub

    images = table.select_columns(image).cast_column(image, datasets.Image(decode=False)).rename_column(image, "source")
    root = where if Path(where).is_dir() else huggingface_hub.constants.HF_HOME
    return datasets.concatenate_datasets([rows, images], axis=1).with_transform(transform(str(Path(root).absolute())))


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
