"""``text_rle``: run lengths over a small grid, in plain numbers: no new tokens (Text4Seg, 2410.09855, inside a box).

An object is "y1 x1 y2 x2 : 3 5 11 6 ...": the box in bins of 0..1023 as ``loc_seg`` has them, then the lengths of runs,
outside and inside in turn, of the cells of the box row by row. What the runs do not reach is outside. With
``scope="image"`` the grid lies over the whole image and there is no box.

Ceilings on 500 masks of the suite at 64 and 256 pixels (``benchmarks/results/codec_ceilings.json``): mIoU 0.89 with 16
cells along a side of the box (some 42 numbers), 0.81 with 8 (20); over the whole image 0.75, 0.82 and 0.86 with 16, 24
and 32 (13, 22 and 31).
"""

from __future__ import annotations

import re

import numpy as np

from vislex.errors import ConfigError
from vislex.segmentation.boxes import BINS, Box, bins_to_box, box_to_bins, crop_mask, mask_to_box, paste_mask
from vislex.segmentation.codec import MalformedError, MaskCodec, Segment

__all__ = ["SCOPES", "TextRleCodec", "parse_numbers"]

SCOPES = ("box", "image")
MAX_GRID = 128
_NUMBER = re.compile(r"[0-9]{1,6}")


def parse_numbers(text: str, what: str) -> list[int]:
    """Numbers separated by spaces, each of at most six digits.

    Raises:
        MalformedError: If there is anything else.
    """
    words = text.split()
    for word in words:
        if not _NUMBER.fullmatch(word):
            raise MalformedError(f"'{word[:20]}' among the {what} is no number")
    return [int(word) for word in words]


class TextRleCodec(MaskCodec):
    """Run lengths of a grid.

    Args:
        grid: Cells along a side.
        scope: "box": the grid lies over the object's box; "image": over the whole image.
    """

    name = "text_rle"
    ceiling = 0.89

    def __init__(self, grid: int = 16, scope: str = "box") -> None:
        if not 1 <= grid <= MAX_GRID:
            raise ConfigError(f"grid {grid} was given; it must be between 1 and {MAX_GRID}")
        if scope not in SCOPES:
            raise ConfigError(f"unknown scope '{scope}'; it is {' or '.join(SCOPES)}")
        self.grid, self.scope = grid, scope

    def encode_one(self, mask: np.ndarray) -> str:
        size = (mask.shape[0], mask.shape[1])
        if self.scope == "image":
            return self._runs(mask, (0, 0, *size))
        bins = box_to_bins(mask_to_box(mask), size)
        box = bins_to_box(bins, size)
        assert box is not None  # the bins are in order
        return " ".join(map(str, bins)) + " : " + self._runs(mask, box)

    def decode_one(self, text: str, size: tuple[int, int]) -> Segment:
        box: Box | None = (0, 0, *size)
        if self.scope == "box":
            head, colon, text = text.partition(":")
            bins = parse_numbers(head, "corners")
            if not colon or len(bins) != 4 or max(bins) > BINS:
                raise MalformedError(f"an object begins with four numbers from 0 to {BINS} and a colon")
            box = bins_to_box(bins, size)
            if box is None:
                raise MalformedError("the box ends before it begins")
        assert box is not None
        mask = paste_mask(self._cells(text) * 2.0 - 1.0, box, size)
        return Segment(mask, mask_to_box(mask) if self.scope == "image" and mask.any() else box)

    def _runs(self, mask: np.ndarray, box: Box) -> str:
        cells = (crop_mask(mask, box, self.grid) >= 0.5).ravel()
        if not cells.any():  # thinner than half a cell everywhere: the fullest one
            cells[crop_mask(mask, box, self.grid).argmax()] = True
        edges = np.flatnonzero(np.diff(cells)) + 1
        lengths = np.diff(np.concatenate([[0], edges, [len(cells)]])).tolist()
        if cells[0]:
            lengths.insert(0, 0)
        if not cells[-1]:
            lengths.pop()  # what is not reached is outside
        return " ".join(map(str, lengths))

    def _cells(self, text: str) -> np.ndarray:
        lengths = parse_numbers(text, "runs")
        if len(lengths) < 2:
            raise MalformedError("fewer than two runs: nothing is inside")
        if len(lengths) > self.grid**2 + 1 or sum(lengths) > self.grid**2:
            raise MalformedError(f"the runs are longer than the {self.grid**2} cells of the grid")
        cells = np.zeros(self.grid**2, dtype=np.float32)
        inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        cells[: len(inside)] = inside
        return cells.reshape(self.grid, self.grid)
