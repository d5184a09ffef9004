"""OK-VQA: 9,009 questions that need outside knowledge to train, 5,046 to test, on COCO's images, ten answers each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vislex.data.hub import load_vqa_hub
from vislex.data.locate import check_task, is_hub_id
from vislex.data.refcoco_splits import held_out_images
from vislex.data.vqav2 import load_mscoco_questions

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

SPLITS = {"train": "train2014", "val": "val2014"}


def load(
    task: str = "vqa",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    without_refcoco: str | Path | None = None,
) -> Dataset:
    """Loads OK-VQA from its question and annotation files and COCO's image folders.

    Args:
        task: "vqa".
        root: The folder, or a hub id.
        split: "train", or "val", on which results are published.
        size: Number of rows, the first ones; None takes all.
        without_refcoco: Folder of RefCOCO/+/g: their val and test images are left out.

    Returns:
        Rows ``id`` (the question's), ``index``, ``file``, ``question``, ``answer``, ``answers``, ``question_type``;
        ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("okvqa", task, ("vqa",))
    if root is not None and is_hub_id(root):
        return load_vqa_hub(root, "okvqa", split=split, size=size, without_refcoco=without_refcoco)
    return load_mscoco_questions("okvqa", root, split, SPLITS, "", size=size, held_out=held_out_images(without_refcoco))
