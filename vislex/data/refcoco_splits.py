"""RefCOCO's pickles of references, and which images of COCO they hold out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vislex.data.safe_pickle import read_plain_pickle
from vislex.errors import DataError

__all__ = ["held_out_images", "read_refs"]

FIELDS = ("ref_id", "ann_id", "image_id", "split", "sentences")


def held_out_images(root: str | Path | None) -> frozenset[int]:
    """COCO ids of the images in a split other than "train" of any RefCOCO/+/g in a folder; none for None.

    Google's splits share images between train and val; they count only where there are no others.

    Raises:
        DataError: If the folder has no refs.
    """
    if root is None:
        return frozenset()
    files = sorted(Path(root).rglob("refs(*).p"))
    if not files:
        raise DataError(f"'{root}' has no refs(*).p; give the folder that holds refcoco, refcoco+ and refcocog")
    kept = [file for file in files if file.name != "refs(google).p"] or files
    return frozenset(int(ref["image_id"]) for file in kept for ref in read_refs(file) if ref["split"] != "train")


def _is_ref(ref: Any) -> bool:
    named = isinstance(ref, dict) and set(FIELDS) <= set(ref)
    return named and isinstance(ref["split"], str) and isinstance(ref["image_id"], int)


def read_refs(file: Path) -> list[Mapping[str, Any]]:
    """The references of a ``refs(BY).p``.

    Raises:
        DataError: If the file is unsafe, damaged or of another form.
    """
    refs = read_plain_pickle(file)
    if not isinstance(refs, list) or not all(_is_ref(ref) for ref in refs):
        raise DataError(f"{file}: not of RefCOCO's form (a list of records with {', '.join(FIELDS)})")
    return refs
