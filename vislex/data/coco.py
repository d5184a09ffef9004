"""COCO captions in Karpathy's splits: 113,287 images to train, 5,000 val, 5,000 test, five captions each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.hub import load_hub
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.refcoco_splits import held_out_images
from vislex.data.schemas import caption_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load", "read_karpathy"]

FOLDERS = ("", "images", "train2014", "val2014", "images/train2014", "images/val2014")


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    restval: bool = True,
    without_refcoco: str | Path | None = None,
) -> Dataset:
    """Loads COCO captions from ``dataset_coco.json`` and the image folders ``train2014`` and ``val2014``.

    Args:
        task: "caption".
        root: The folder, or a hub id.
        split: "train", "val" or "test".
        size: Number of rows, the first ones; None takes all.
        restval: Whether "train" includes Karpathy's ``restval`` (30,504 images of val2014), as papers do.
        without_refcoco: Folder of RefCOCO/+/g: their val and test images are left out, for a model that is trained on
            this and tested on those.

    Returns:
        Rows ``id`` (the COCO id), ``index``, ``file``, ``captions``; ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("coco", task)
    held_out = held_out_images(without_refcoco)
    if root is not None and is_hub_id(root):
        if held_out:
            raise DataError("'without_refcoco' needs COCO's ids: give a local folder with dataset_coco.json")
        return load_hub(root, "coco", split=split, size=size)
    folder = local_root("coco", root)
    annotations = find_file(folder, ["dataset_coco.json", "**/dataset_coco.json"], "annotations")
    wanted = {"train", "restval"} if split == "train" and restval else {split}
    finder = ImageFinder(folder, FOLDERS)
    rows = [
        row
        for row in read_karpathy(annotations, "coco", split, wanted, finder)
        if not held_out or int(row["id"]) not in held_out
    ]
    finder.check(str(annotations))
    return caption_dataset(rows, folder, source=str(annotations), size=size)


def read_karpathy(
    annotations: Path, name: str, split: str, wanted: set[str], finder: ImageFinder
) -> Iterator[dict[str, Any]]:
    """Rows of a Karpathy file (``dataset_coco.json``, ``dataset_flickr30k.json``).

    Raises:
        ConfigError: If no image is in the wanted splits.
        DataError: If the file has another form.
    """
    document = read_json(annotations)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{annotations}: no list 'images'; expected Karpathy's form")
    known: set[str] = set()
    for number, image in enumerate(images):
        where = f"{annotations}, image {number}"
        try:
            known.add(image["split"])
            if image["split"] not in wanted:
                continue
            filename = str(image["filename"])
            below = f"{image['filepath']}/{filename}" if image.get("filepath") else filename
            captions = [sentence["raw"] for sentence in image["sentences"]]
            identity = image.get("cocoid", filename.rpartition(".")[0] or filename)
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: no field {error}; expected filename, split and sentences[].raw") from error
        yield {"id": str(identity), "file": finder(below, where, filename), "captions": captions}
    if not known & wanted:
        raise unknown_split(name, split, known - {"restval"})
