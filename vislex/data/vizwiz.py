"""VizWiz-VQA: 20,523 photographs and spoken questions of blind people to train, 4,319 val, ten answers each."""

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

SPLITS = ("train", "val", "test")


def load(
    task: str = "vqa",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
) -> Dataset:
    """Loads VizWiz-VQA from ``{split}.json`` and the image folder of the same name.

    Args:
        task: "vqa".
        root: The folder, or a hub id.
        split: "train", "val" or "test" (whose answers are not published: empty lists).
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id`` (the image's name), ``index``, ``file``, ``question``, ``answer``, ``answers``, ``question_type``
        (that of the answer: "other", "unanswerable", "yes/no", "number"); ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("vizwiz", task, ("vqa",))
    if root is not None and is_hub_id(root):
        return load_vqa_hub(root, "vizwiz", split=split, size=size)
    folder = local_root("vizwiz", root)
    if split not in SPLITS:
        raise unknown_split("vizwiz", split, SPLITS)
    names = [f"Annotations/{split}.json", f"{split}.json", f"**/{split}.json"]
    questions = find_file(folder, names, f"questions of split '{split}'")
    finder = ImageFinder(folder, (split, f"images/{split}", "images", ""))
    rows = []
    try:
        for entry in read_json(questions):
            rows.append(
                {
                    "id": entry["image"],
                    "file": finder(entry["image"], str(questions)),
                    "question": entry["question"],
                    "answers": [answer["answer"] for answer in entry.get("answers", [])],
                    "question_type": entry.get("answer_type", ""),
                }
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{questions}: not of VizWiz's form ([].image, question, answers): {error}") from error
    finder.check(str(questions))
    return vqa_dataset(rows, folder, source=str(questions), size=size)
