"""ScienceQA: school questions with choices; those with an image: 6,218 to train, 2,097 val, 2,017 test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.hub import load_hub_rows
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.schemas import vqa_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load", "question_with_choices"]

SPLITS = ("train", "val", "test")


def load(
    task: str = "vqa",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads the questions with an image from ``problems.json``, ``pid_splits.json`` and the image folders.

    Args:
        task: "vqa".
        root: The folder, or a hub id.
        split: "train", "val" or "test".
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file``, ``question`` (with the hint and the lettered choices), ``answer`` (the text of
        the right choice), ``answers``, ``question_type`` (the subject), ``choices`` list[str] and ``choice`` (index of
        the right one), as ``vislex.metrics.vqa.scienceqa`` takes them; ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("scienceqa", task, ("vqa",))
    if root is not None and is_hub_id(root):
        return load_hub_rows(
            root, "scienceqa", _hub_row, split=split, size=size, needs=("question", "choices", "answer")
        )
    folder = local_root("scienceqa", root)
    if split not in SPLITS:
        raise unknown_split("scienceqa", split, SPLITS)
    problems = find_file(folder, ["problems.json", "**/problems.json"], "problems")
    splits = find_file(folder, ["pid_splits.json", "**/pid_splits.json"], "list of splits")
    finder = ImageFinder(folder, (f"images/{split}", split, f"data/scienceqa/images/{split}", "images", ""))
    rows = []
    document, identities = read_json(problems), read_json(splits)
    try:
        for identity in identities[split]:
            entry = document[identity]
            if entry.get("image"):
                file = finder(f"{identity}/{entry['image']}", f"{problems}, question {identity}")
                rows.append({"id": str(identity), "file": file, **_row(entry)})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{problems}: not of ScienceQA's form (ID -> question, choices, answer): {error}") from error
    finder.check(str(problems))
    return vqa_dataset(rows, folder, source=str(problems), size=size)


def question_with_choices(question: str, choices: list[str], hint: str = "") -> str:
    """The question, its hint, and the choices by letter, a line each."""
    lettered = [f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices)]
    return "\n".join([question.strip(), *([hint.strip()] if hint and hint.strip() else []), *lettered])


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    choices, right = [str(choice) for choice in entry["choices"]], int(entry["answer"])
    if not 0 <= right < len(choices):
        raise IndexError(f"answer {right} of {len(choices)} choices")
    return {
        "question": question_with_choices(entry["question"], choices, entry.get("hint") or ""),
        "answer": choices[right],
        "answers": [choices[right]],
        "question_type": str(entry.get("subject") or ""),
        "choices": choices,
        "choice": right,
    }


def _hub_row(entry: Mapping[str, Any], position: str) -> Iterable[dict[str, Any]]:
    yield {"id": str(entry.get("id", position)), **_row(entry)}
