"""RefCOCO, RefCOCO+ and RefCOCOg: expressions for objects of COCO's train2014, with their masks.

Splits are by UNC (train, val, testA, testB) and, for RefCOCOg, by UMD (train, val, test). All three draw on the same
images: "train" leaves out every image that is in val or test of any of them that lies in the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.coco_masks import OpenMasks
from vislex.data.hub import load_hub_rows
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.refcoco_splits import held_out_images, read_refs
from vislex.data.schemas import segmentation_dataset
from vislex.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load", "load_g", "load_plus"]

SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
FOLDERS = (
    "", "images", "train2014", "images/train2014", "images/mscoco/images/train2014", "coco/train2014",
    "coco/images/train2014",
)  # fmt: skip


def load(task: str = "segmentation", **options: Any) -> Dataset:
    """Loads RefCOCO: 142,210 expressions; see ``load_named``."""
    return load_named("refcoco", task, **options)


def load_plus(task: str = "segmentation", **options: Any) -> Dataset:
    """Loads RefCOCO+: 141,564 expressions without words of place; see ``load_named``."""
    return load_named("refcoco+", task, **options)


def load_g(task: str = "segmentation", **options: Any) -> Dataset:
    """Loads RefCOCOg: 95,010 longer expressions; see ``load_named``."""
    return load_named("refcocog", task, **options)


def load_named(
    name: str,
    task: str,
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    split_by: str | None = None,
    remove_leaked: bool = True,
) -> Dataset:
    """Loads ``NAME/refs(BY).p`` and ``NAME/instances.json`` of a folder, and COCO's train2014 images.

    Args:
        name: "refcoco", "refcoco+" or "refcocog".
        task: "segmentation".
        root: The folder, or a hub id.
        split: "train", "val", "testA", "testB"; "test" for RefCOCOg.
        size: Number of rows, the first ones; None takes all.
        split_by: "unc", "umd" or "google"; by default the first of ``SPLIT_BY[name]``.
        remove_leaked: Whether "train" leaves out the images of the others' val and test splits.

    Returns:
        A row an expression: ``id``, ``index``, ``file``, ``expression``, ``ref_id``; ``image`` and ``mask`` bool[H, W]
        when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing or unsafe files.
    """
    check_task(name, task, ("segmentation",))
    by = SPLIT_BY[name][0] if split_by is None else split_by
    if by not in SPLIT_BY[name]:
        raise ConfigError(f"data set '{name}' has no splits by '{by}'; it has {', '.join(SPLIT_BY[name])}")
    if root is not None and is_hub_id(root):
        needs = ("segmentation", "answer")
        return load_hub_rows(root, name, _hub_rows, split=split, size=size, needs=needs, transform=OpenMasks)
    folder = local_root(name, root)
    refs = find_file(folder, [f"refs({by}).p", f"{name}/refs({by}).p", f"**/{name}/refs({by}).p"], f"refs by '{by}'")
    instances = find_file(refs.parent, ["instances.json"], "instances")
    held_out = held_out_images(folder) if split == "train" and remove_leaked else frozenset()
    finder = ImageFinder(folder, FOLDERS)
    rows = list(_rows(name, refs, instances, split, held_out, finder))
    finder.check(str(refs))
    return segmentation_dataset(rows, folder, source=str(refs), size=size)


def _rows(
    name: str, file: Path, instances: Path, split: str, held_out: frozenset[int], finder: ImageFinder
) -> Iterator[dict[str, Any]]:
    refs = read_refs(file)
    known = {ref["split"] for ref in refs}
    if split not in known:
        raise unknown_split(name, split, known)
    document = read_json(instances)
    try:
        images = {image["id"]: image for image in document["images"]}
        annotations = {annotation["id"]: annotation for annotation in document["annotations"]}
        for ref in refs:
            if ref["split"] != split or int(ref["image_id"]) in held_out:
                continue
            image, annotation = images[ref["image_id"]], annotations[ref["ann_id"]]
            file_name = finder(str(image["file_name"]), f"{instances}, image {image['id']}")
            for sentence in ref["sentences"]:
                yield {
                    "id": f"{ref['ref_id']}-{sentence['sent_id']}",
                    "file": file_name,
                    "expression": " ".join(str(sentence.get("sent") or sentence["raw"]).split()),
                    "segmentation": json.dumps(annotation["segmentation"]),
                    "height": int(image["height"]),
                    "width": int(image["width"]),
                    "ref_id": str(ref["ref_id"]),
                }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} and {instances}: not of RefCOCO's form; missing or wrong: {error}") from error


def _hub_rows(row: Mapping[str, Any], position: str) -> Iterable[dict[str, Any]]:
    """A row an expression; hubs keep the expressions of an object in one row and no size of the image."""
    expressions = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
    for number, expression in enumerate(expressions):
        yield {
            "id": f"{position}-{number}",
            "expression": " ".join(expression.split()),
            "segmentation": json.dumps(row["segmentation"]),
            "height": 0,
            "width": 0,
            "ref_id": position,
        }
