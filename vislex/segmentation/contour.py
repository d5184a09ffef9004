"""Outlines of masks: traced, simplified to a few corners, and filled again."""

from __future__ import annotations

import contourpy
import numpy as np

__all__ = ["fill_rings", "simplify_ring", "trace_rings"]


def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """The outlines of the parts and holes of a mask, the largest first.

    Args:
        mask: bool[H, W].

    Returns:
        float64[N, 2] each: y, x in pixels, where pixel i reaches from i to i + 1; not closed by a repeated point.
    """
    padded = np.pad(mask.astype(np.float64), 1)
    # Padding shifts by one pixel, and a pixel's value stands at its centre: half a pixel back.
    lines = contourpy.contour_generator(z=padded).lines(0.5)
    rings = [np.asarray(line)[:-1, ::-1] - 0.5 for line in lines if len(line) > 3]
    return sorted(rings, key=_area, reverse=True)


def simplify_ring(ring: np.ndarray, points: int) -> np.ndarray:
    """Drops corners until ``points`` are left, each time the one that changes the area least.

    Visvalingam and Whyatt, "Line generalisation by repeated elimination of points" (1993).

    Args:
        ring: float64[N, 2].
        points: At least 3.

    Returns:
        float64[min(N, points), 2].
    """
    count = len(ring)
    before, after = np.roll(np.arange(count), 1), np.roll(np.arange(count), -1)
    areas = _triangle(ring[before], ring, ring[after])
    for _ in range(count - max(points, 3)):
        least = int(areas.argmin())
        left, right = before[least], after[least]
        areas[least], after[left], before[right] = np.inf, right, left
        for corner in (left, right):
            areas[corner] = _triangle(ring[before[corner]], ring[corner], ring[after[corner]])
    return ring[np.isfinite(areas)]


def fill_rings(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies inside an odd number of rings.

    Args:
        rings: float64[N, 2] each: y, x in pixels.
        size: Height and width.

    Returns:
        bool[H, W].
    """
    height, width = size
    crossings = np.zeros((height, width + 1), dtype=np.int32)  # a row's boundaries, at the first centre behind each
    for ring in rings:
        for (y1, x1), (y2, x2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            top, bottom = sorted((y1, y2))
            first, last = max(int(np.ceil(top - 0.5)), 0), min(int(np.ceil(bottom - 0.5)), height)
            if first >= last:
                continue
            rows = np.arange(first, last)
            where = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            crossings[rows, np.clip(np.ceil(where - 0.5), 0, width).astype(int)] += 1
    return np.cumsum(crossings[:, :width], axis=1) % 2 == 1


def _triangle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the area of triangles of points float64[..., 2]."""
    return np.abs((a[..., 0] - b[..., 0]) * (c[..., 1] - b[..., 1]) - (a[..., 1] - b[..., 1]) * (c[..., 0] - b[..., 0]))


def _area(ring: np.ndarray) -> float:
    y, x = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(y, np.roll(x, -1)) - np.dot(x, np.roll(y, -1)))) / 2
