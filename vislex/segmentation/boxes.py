"""Boxes of masks: in pixels, as bins of PaliGemma's location tokens, and what lies inside them at another size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from vislex.errors import DataError

__all__ = ["BINS", "Box", "bins_to_box", "box_to_bins", "check_mask", "crop_mask", "mask_to_box", "paste_mask"]

# y1, x1, y2, x2 in pixels: the first row and column inside, the first ones behind.
Box = tuple[int, int, int, int]
BINS = 1023  # the largest bin: coordinates are round(b * 1023), and go back by / 1023


def check_mask(mask: np.ndarray, where: str = "the mask") -> np.ndarray:
    """A mask as bool[H, W].

    Args:
        mask: bool[H, W], or integers of which 0 is outside.
        where: What an error names.

    Raises:
        DataError: If it has another shape or type, or no pixel is inside.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "bui":
        raise DataError(f"{where} is {array.dtype}{list(array.shape)}; a mask is bool[H, W]")
    array = array.astype(bool)
    if not array.any():
        raise DataError(f"{where} has no pixel; leave objects out that are not there")
    return array


def mask_to_box(mask: np.ndarray) -> Box:
    """The tight box of bool[H, W] with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def box_to_bins(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Bins of a box in an image of ``size`` (height, width): ``round(b * 1023)``, clipped."""
    height, width = size
    shares = np.array(box) / np.array([height, width, height, width])
    y1, x1, y2, x2 = np.clip(np.round(shares * BINS), 0, BINS).astype(int).tolist()
    return y1, x1, y2, x2


def bins_to_box(bins: Sequence[int], size: tuple[int, int]) -> Box | None:
    """The box in pixels of bins in order (y1 <= y2, x1 <= x2), at least one pixel high and wide; else None."""
    y1, x1, y2, x2 = bins
    if y1 > y2 or x1 > x2:
        return None
    height, width = size
    edges = []
    for low, high, length in ((y1, y2, height), (x1, x2, width)):
        start = min(round(low / BINS * length), length - 1)
        edges.append((start, max(round(high / BINS * length), start + 1)))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def crop_mask(mask: np.ndarray, box: Box, side: int) -> np.ndarray:
    """What lies inside a box, resized to a square (bilinear, antialiased): float32[side, side] in [0, 1]."""
    y1, x1, y2, x2 = box
    inside = torch.from_numpy(mask[y1:y2, x1:x2].astype(np.float32))
    return _resize(inside, (side, side)).numpy()


def paste_mask(square: np.ndarray, box: Box, size: tuple[int, int], threshold: float = 0.0) -> np.ndarray:
    """Resizes float[S, S] to a box (bilinear) and thresholds it there.

    Args:
        square: What is above ``threshold`` is inside.
        box: Pixels.
        size: Height and width of the result.
        threshold: Of the resized values.

    Returns:
        bool[H, W].
    """
    y1, x1, y2, x2 = box
    mask = np.zeros(size, dtype=bool)
    resized = _resize(torch.from_numpy(np.asarray(square, dtype=np.float32)), (y2 - y1, x2 - x1))
    mask[y1:y2, x1:x2] = resized.numpy() > threshold
    return mask


def _resize(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]
