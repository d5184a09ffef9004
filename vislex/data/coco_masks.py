"""Masks of COCO annotations: polygons and run lengths, drawn when a row is read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from vislex.data.schemas import OpenImages
from vislex.errors import DataError
from vislex.segmentation.contour import fill_rings

__all__ = ["OpenMasks", "decode_segmentation", "parse_counts"]

_MOST_BITS = 60


class OpenMasks(OpenImages):
    """As ``OpenImages``, and adds ``mask`` bool[H, W] in the place of ``segmentation``, ``height`` and ``width``.

    A height of 0 stands for the image's own.
    """

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        opened = super().__call__(batch)
        if "image" not in opened or not {"segmentation", "height", "width"} <= set(batch):
            return opened
        texts, heights, widths = (opened.pop(name) for name in ("segmentation", "height", "width"))
        names = batch.get("id", batch.get("file", [None] * len(texts)))
        opened["mask"] = []
        for name, text, height, width, image in zip(names, texts, heights, widths, opened["image"], strict=True):
            size = (height, width) if height else (image.height, image.width)
            if size != (image.height, image.width):
                raise DataError(
                    f"row {name!r}: its mask is {width} x {height} pixels, its image {image.width} x {image.height}; "
                    "they are of different files"
                )
            opened["mask"].append(decode_segmentation(json.loads(text), size, f"row {name!r}"))
        return opened


def decode_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """The mask of an annotation's ``segmentation``.

    Args:
        segmentation: A list of polygons ([x, y, x, y, ...], in pixels; the mask is their union), or run lengths
            ``{"size": [H, W], "counts": [...] or compressed text}``, down the columns, outside first.
        size: Height and width of the image.
        where: What an error names.

    Returns:
        bool[H, W].

    Raises:
        DataError: If it is neither, or does not fit the size.
    """
    height, width = size
    if isinstance(segmentation, dict):
        return _runs(segmentation, size, where)
    mask = np.zeros(size, dtype=bool)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"{where}: its segmentation is neither polygons nor run lengths")
    polygons = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
    for polygon in polygons:
        try:
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)[:, ::-1]
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: a polygon is no list of pairs of numbers") from error
        if len(corners) < 3 or not np.isfinite(corners).all():
            raise DataError(f"{where}: a polygon has {len(corners)} corners; at least three finite ones are needed")
        mask |= fill_rings([np.clip(corners, -1e6, 1e6)], (height, width))
    return mask


def _runs(segmentation: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    counts = segmentation.get("counts")
    if segmentation.get("size") not in (list(size), size):
        raise DataError(f"{where}: its run lengths are for {segmentation.get('size')}, its image is {list(size)}")
    lengths = parse_counts(counts, where) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise DataError(f"{where}: its run lengths are no whole numbers")
    if sum(lengths) != size[0] * size[1]:
        raise DataError(f"{where}: its run lengths cover {sum(lengths)} of {size[0] * size[1]} pixels")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(inside.reshape(size[1], size[0]).T)


def parse_counts(text: str, where: str = "an annotation") -> list[int]:
    """Run lengths of COCO's compressed text: five bits a character, differences to the run before the last one.

    Raises:
        DataError: If it is cut off or holds another character.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise DataError(f"{where}: its run lengths hold the character {character!r}")
        if shift > _MOST_BITS:  # a text without an end to a number would make one of millions of digits
            raise DataError(f"{where}: a run length has more than {_MOST_BITS} bits")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError(f"{where}: its run lengths are cut off")
    return lengths
