"""TextVQA: 34,602 questions to train, 5,000 val, that are answered by reading text in the image, ten answers each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vislex.data.hub import load_vqa_hub
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.schemas import vqa_dataset
from vislex.data.textcaps import FOLDERS, SPLITS
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]


def load(
    task: str = "vqa",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads TextVQA from ``TextVQA_0.5.1_{split}.json`` and its image folders.

    Args:
        task: "vqa".
        root: The folder, or a hub id.
        split: "train", "val" or "test" (whose answers are not published: empty lists).
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id`` (the question's), ``index``, ``file``, ``question``, ``answer``, ``answers``, ``question_type``
        (empty); ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("textvqa", task, ("vqa",))
    if root is not None and is_hub_id(root):
        return load_vqa_hub(root, "textvqa", split=split, size=size)
    folder = local_root("textvqa", root)
    if split not in SPLITS:
        raise unknown_split("textvqa", split, SPLITS)
    names = [f"TextVQA_0.5.1_{split}.json", f"**/TextVQA_*{split}.json"]
    questions = find_file(folder, names, f"questions of split '{split}'")
    finder = ImageFinder(folder, FOLDERS)
    rows = []
    try:
        for entry in read_json(questions)["data"]:
            identity = str(entry["question_id"])
            rows.append(
                {
                    "id": identity,
                    "file": finder(f"{entry['image_id']}.jpg", f"{questions}, question {identity}"),
                    "question": entry["question"],
                    "answers": list(entry.get("answers", [])),
                    "question_type": "",
                }
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{questions}: not of TextVQA's form (data[].question_id, image_id): {error}") from error
    finder.check(str(questions))
    return vqa_dataset(rows, folder, source=str(questions), size=size)
