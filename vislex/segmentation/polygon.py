"""``polygon``: the corners of the outline in plain numbers: no new tokens (PolyFormer, 2302.07387, with holes).

An object is "y x y x ... / y x y x ...": rings of at least three corners, in bins of 0..1023 of the image's sides. A
point is inside where it lies in an odd number of rings, so that holes and parts are both rings.

Ceilings on 500 masks of the suite at 64 and 256 pixels (``benchmarks/results/codec_ceilings.json``): mIoU 0.91 with 16
corners a ring (some 42 numbers), 0.82 with 8 (21), 0.94 with 24 (61).
"""

from __future__ import annotations

import numpy as np

from vislex.errors import ConfigError
from vislex.segmentation.boxes import BINS, mask_to_box
from vislex.segmentation.codec import MalformedError, MaskCodec, Segment
from vislex.segmentation.contour import fill_rings, simplify_ring, trace_rings
from vislex.segmentation.text_rle import parse_numbers

__all__ = ["PolygonCodec"]

_RING = "/"
_MAX_POINTS = 512


class PolygonCodec(MaskCodec):
    """Corners of outlines.

    Args:
        points: Most corners of a ring.
        rings: Most rings of an object, the largest ones.
    """

    name = "polygon"
    ceiling = 0.91

    def __init__(self, points: int = 16, rings: int = 3) -> None:
        if not 3 <= points <= _MAX_POINTS or not 1 <= rings <= _MAX_POINTS:
            raise ConfigError(
                f"points {points} and rings {rings} were given; allowed are 3 to {_MAX_POINTS} and 1 to {_MAX_POINTS}"
            )
        self.points, self.rings = points, rings

    def encode_one(self, mask: np.ndarray) -> str:
        scale = BINS / np.array(mask.shape)
        texts = []
        for ring in trace_rings(mask)[: self.rings]:
            corners = np.clip(np.round(simplify_ring(ring, self.points) * scale), 0, BINS).astype(int)
            corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
            if len(corners) >= 3:
                texts.append(" ".join(map(str, corners.ravel().tolist())))
        if not texts:  # smaller than a bin
            y, x = np.clip(np.round(np.argwhere(mask)[0] * scale), 0, BINS - 1).astype(int).tolist()
            texts = [f"{y} {x} {y} {x + 1} {y + 1} {x}"]
        return f" {_RING} ".join(texts)

    def decode_one(self, text: str, size: tuple[int, int]) -> Segment:
        pieces = text.split(_RING)
        if len(pieces) > _MAX_POINTS:
            raise MalformedError(f"more than {_MAX_POINTS} rings")
        rings = []
        for piece in pieces:
            numbers = parse_numbers(piece, "corners")
            if len(numbers) < 6 or len(numbers) % 2 or max(numbers) > BINS:
                raise MalformedError(f"a ring is three corners or more: pairs of numbers from 0 to {BINS}")
            if len(numbers) > 2 * _MAX_POINTS:
                raise MalformedError(f"a ring of more than {_MAX_POINTS} corners")
            rings.append(np.array(numbers, dtype=np.float64).reshape(-1, 2) / BINS * np.array(size))
        mask = fill_rings(rings, size)
        if not mask.any():  # thinner than a pixel: the one that its first corner lies in
            y, x = np.minimum(rings[0][0].astype(int), np.array(size) - 1)
            mask[y, x] = True
        return Segment(mask, mask_to_box(mask))
