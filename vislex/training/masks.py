"""Training masks in one uint8 array on disk: each object cut out by its box and resized to a square."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from vislex.cache import cache_dir
from vislex.segmentation.boxes import crop_mask, mask_to_box
from vislex.training.cache import array_on_disk, content_key, rows_digest

__all__ = ["cached_masks"]

PROBES = 16


def cached_masks(
    renderings: Sequence[Dataset], side: int, *, folder: Path | None = None, provenance: dict[str, Any] | None = None
) -> np.ndarray:
    """Cuts out the masks of a referring segmentation data set, or opens what an earlier call cut out.

    Args:
        renderings: Data sets of the same rows with a column ``mask``, which differ in the size at which they draw and
            take turns.
        side: Side in pixels.
        folder: Cache folder; None is ``<cache>/masks``.
        provenance: What the masks are made of (a suite's version and hashes).

    Returns:
        uint8[N, side, side], memory-mapped: 255 inside, 0 outside; a row whose mask is empty is left out.
    """

    def square(row: int) -> np.ndarray | None:
        mask = np.asarray(renderings[row % len(renderings)][row]["mask"], dtype=bool)
        return np.round(255 * crop_mask(mask, mask_to_box(mask), side)).astype(np.uint8) if mask.any() else None

    count = len(renderings[0])
    probes = [square(i * (count - 1) // (PROBES - 1)) for i in range(PROBES)]
    describe = {
        "rows": rows_digest(renderings[0]),
        "renderings": len(renderings),
        "side": side,
        "provenance": provenance,
        "probes": content_key(
            {str(i): None if probe is None else probe.tobytes().hex() for i, probe in enumerate(probes)}
        ),
    }

    def fill(array: np.ndarray, _: Path) -> None:
        for row in range(count):
            cut = square(row)
            array[row] = 0 if cut is None else cut

    target = (folder or cache_dir() / "masks") / content_key(describe)[:32]
    masks, _ = array_on_disk(target, shape=(count, side, side), dtype=np.uint8, fill=fill, describe=describe)
    empty = np.flatnonzero(masks.reshape(count, -1).max(axis=1) == 0)
    return masks if not len(empty) else np.delete(masks, empty, axis=0)
