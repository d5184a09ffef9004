"""NoCaps: 4,500 validation images with ten captions each, by domain (in, near, out of COCO's classes)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vislex.data.hub import load_hub
from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, is_hub_id, local_root, unknown_split
from vislex.data.schemas import caption_dataset
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DOMAINS", "load"]

DOMAINS = ("in-domain", "near-domain", "out-domain")
FILES = {
    "val": ("nocaps_val_4500_captions.json", "**/nocaps_val*captions.json"),
    "test": ("nocaps_test_image_info.json", "**/nocaps_test*.json"),
}
FOLDERS = ("", "images", "val", "validation", "test", "images/val", "images/validation", "images/test")


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "val",
    size: int | None = None,
    domain: str | None = None,
) -> Dataset:
    """Loads NoCaps from ``nocaps_val_4500_captions.json`` and its images.

    Args:
        task: "caption".
        root: The folder, or a hub id.
        split: "val", or "test" (whose captions are not published: empty lists).
        size: Number of rows, the first ones; None takes all.
        domain: Only images of this domain: "in-domain", "near-domain" or "out-domain".

    Returns:
        Rows ``id``, ``index``, ``file``, ``captions``, ``domain``; ``image`` when read.

    Raises:
        ConfigError, DataError: For an unknown split or domain, missing files, unsafe paths.
    """
    check_task("nocaps", task)
    if domain is not None and domain not in DOMAINS:
        raise DataError(f"unknown NoCaps domain '{domain}'; it is {', '.join(DOMAINS)}")
    if root is not None and is_hub_id(root):
        if domain is None:
            return load_hub(root, "nocaps", split=split, size=size, keep=("domain",))
        table = load_hub(root, "nocaps", split=split, keep=("domain",))
        return table.select([i for i, value in enumerate(table["domain"]) if _full_name(value) == domain][:size])
    folder = local_root("nocaps", root)
    if split not in FILES:
        raise unknown_split("nocaps", split, FILES)
    annotations = find_file(folder, FILES[split], f"annotations of split '{split}'")
    document = read_json(annotations)
    finder = ImageFinder(folder, FOLDERS)
    rows = []
    try:
        captions: dict[int, list[str]] = {}
        for annotation in document.get("annotations", []):
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        for image in document["images"]:
            where = f"{annotations}, image {image['id']}"
            own = _full_name(image.get("domain", ""))
            if domain in (None, own):
                file = finder(str(image["file_name"]), where)
                texts = captions.get(image["id"], [])
                rows.append({"id": str(image["id"]), "file": file, "captions": texts, "domain": own})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{annotations}: not of NoCaps' form (COCO's images and annotations): {error}") from error
    finder.check(str(annotations))
    return caption_dataset(rows, folder, source=str(annotations), size=size)


def _full_name(domain: str) -> str:
    """Files write "in-domain" or "in"; an image without a domain gives the empty string."""
    return f"{domain}-domain" if domain in ("in", "near", "out") else domain
