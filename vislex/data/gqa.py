"""GQA: compositional questions on Visual Genome's images, one answer each; 943,000 balanced ones to train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vislex.data.hub import load_vqa_hub
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.schemas import vqa_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

SPLITS = ("train", "val", "testdev", "test")
FOLDERS = ("", "images", "allImages/images", "gqa/images")


def load(
    task: str = "vqa",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    balanced: bool = True,
) -> Dataset:
    """Loads GQA from ``{split}_balanced_questions.json`` and ``images``.

    Args:
        task: "vqa".
        root: The folder, or a hub id.
        split: "train", "val", "testdev" or "test" (whose answers are not published: empty lists).
        size: Number of rows, the first ones; None takes all.
        balanced: Whether to read the balanced questions, on which results are published, or ``{split}_all``.

    Returns:
        Rows ``id`` (the question's), ``index``, ``file``, ``question``, ``answer``, ``answers``, ``question_type``
        (the structural one: "query", "verify", ...); ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("gqa", task, ("vqa",))
    if root is not None and is_hub_id(root):
        return load_vqa_hub(root, "gqa", split=split, size=size)
    folder = local_root("gqa", root)
    if split not in SPLITS:
        raise unknown_split("gqa", split, SPLITS)
    stem = f"{split}_{'balanced' if balanced else 'all'}_questions.json"
    questions = find_file(folder, [stem, f"**/{stem}"], f"questions of split '{split}'")
    document = read_json(questions)
    finder = ImageFinder(folder, FOLDERS)
    rows = []
    try:
        for identity, entry in document.items():
            rows.append(
                {
                    "id": identity,
                    "file": finder(f"{entry['imageId']}.jpg", f"{questions}, question {identity}"),
                    "question": entry["question"],
                    "answers": [entry["answer"]] if "answer" in entry else [],
                    "question_type": str((entry.get("types") or {}).get("structural", "")),
                }
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{questions}: not of GQA's form (ID -> question, imageId, answer): {error}") from error
    finder.check(str(questions))
    return vqa_dataset(rows, folder, source=str(questions), size=size)
