"""VQAv2: 443,757 questions on COCO's images to train, 214,354 val, ten human answers each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.hub import load_vqa_hub
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.refcoco_splits import held_out_images
from vislex.data.schemas import vqa_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load", "load_mscoco_questions"]

SPLITS = {"train": "train2014", "val": "val2014", "test_dev": "test-dev2015", "test": "test2015"}
FOLDERS = (
    "", "images", "train2014", "val2014", "test2015", "images/train2014", "images/val2014", "images/test2015",
    "coco/train2014", "coco/val2014", "coco/test2015",
)  # fmt: skip


def load(
    task: str = "vqa",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    without_refcoco: str | Path | None = None,
) -> Dataset:
    """Loads VQAv2 from its question and annotation files and COCO's image folders.

    Args:
        task: "vqa".
        root: The folder, or a hub id.
        split: "train", "val", "test_dev" or "test" (whose answers are not published: empty lists).
        size: Number of rows, the first ones; None takes all.
        without_refcoco: Folder of RefCOCO/+/g: their val and test images are left out, for a model that is trained on
            this and tested on those.

    Returns:
        Rows ``id`` (the question's), ``index``, ``file``, ``question``, ``answer``, ``answers``, ``question_type``;
        ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("vqav2", task, ("vqa",))
    if root is not None and is_hub_id(root):
        return load_vqa_hub(root, "vqav2", split=split, size=size, without_refcoco=without_refcoco)
    return load_mscoco_questions(
        "vqav2", root, split, SPLITS, "v2_", size=size, held_out=held_out_images(without_refcoco)
    )


def load_mscoco_questions(
    name: str,
    root: str | Path | None,
    split: str,
    splits: Mapping[str, str],
    prefix: str,
    *,
    size: int | None,
    held_out: frozenset[int],
) -> Dataset:
    """Loads the files in the form of the VQA challenge (VQAv2, OKVQA).

    Args:
        name: What errors call the data set.
        root: Its folder.
        split: Name of the split.
        splits: Name of the split in file names.
        prefix: Of the file names.
        size: Number of rows, the first ones; None takes all.
        held_out: COCO ids of images to leave out.
    """
    folder = local_root(name, root)
    if split not in splits:
        raise unknown_split(name, split, splits)
    part = splits[split]
    stem = f"{prefix}OpenEnded_mscoco_{part}_questions.json"
    questions = find_file(folder, [stem, f"**/{stem}"], f"questions of split '{split}'")
    answers: dict[Any, Mapping[str, Any]] = {}
    if not part.startswith("test"):
        stem = f"{prefix}mscoco_{part}_annotations.json"
        annotations = find_file(folder, [stem, f"**/{stem}"], f"annotations of split '{split}'")
        try:
            answers = {entry["question_id"]: entry for entry in read_json(annotations)["annotations"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{annotations}: not of VQA's form (annotations[].question_id): {error}") from error
    finder = ImageFinder(folder, FOLDERS)
    images = part.replace("test-dev", "test")
    rows = list(_rows(questions, answers, finder, images, held_out))
    finder.check(str(questions))
    return vqa_dataset(rows, folder, source=str(questions), size=size)


def _rows(
    questions: Path,
    answers: Mapping[Any, Mapping[str, Any]],
    finder: ImageFinder,
    images: str,
    held_out: frozenset[int],
) -> Iterator[dict[str, Any]]:
    try:
        listed: Sequence[Mapping[str, Any]] = read_json(questions)["questions"]
        for entry in listed:
            image, identity = int(entry["image_id"]), entry["question_id"]
            if image in held_out:
                continue
            where = f"{questions}, question {identity}"
            if answers and identity not in answers:
                raise DataError(f"{where}: it has no annotation; the files are of different splits")
            annotation = answers.get(identity, {})
            chosen = annotation.get("multiple_choice_answer")
            yield {
                "id": str(identity),
                "file": finder(f"COCO_{images}_{image:012d}.jpg", where, f"{image:012d}.jpg"),
                "question": entry["question"],
                "answers": [answer["answer"] for answer in annotation.get("answers", ())],
                "question_type": str(annotation.get("question_type", "")),
                **({} if chosen is None else {"answer": chosen}),
            }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{questions}: not of VQA's form (questions[].question_id, image_id): {error}") from error
