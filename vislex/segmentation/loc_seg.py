"""``loc_seg``: PaliGemma's location and segmentation tokens; ``box``: the location tokens alone, filled.

An object is ``<locYYYY>`` four times, y1 x1 y2 x2 as ``round(b * 1023)`` of the share of the image's side, then
``<segXXX>`` sixteen times, the codes of a mask tokenizer row by row; a label may follow. A widely copied parser divides
by 1024; the inverse of the training's rounding is / 1023.

A model is sure of some codes and not of others: where its probabilities are at hand, the mask is that of the expected
entry of the codebook in each cell, not of the likeliest.

Ceilings on 500 masks of the suite at 64 and 256 pixels (``benchmarks/results/codec_ceilings.json``): mIoU 0.88 with the
shipped mask tokenizer and its 20 tokens, 0.55 for the filled box and its 4.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vislex.errors import ConfigError
from vislex.segmentation.boxes import BINS, Box, bins_to_box, box_to_bins, crop_mask, mask_to_box, paste_mask
from vislex.segmentation.codec import Decoded, MalformedError, MaskCodec, Segment
from vislex.segmentation.mask_tokenizer import MaskTokenizer, load_mask_tokenizer

__all__ = ["BoxCodec", "LocSegCodec"]

_LOCATION = re.compile(r"<loc([0-9]{4})>\s*")
_CODE = re.compile(r"<seg([0-9]{3})>\s*")
_LABEL = re.compile(r"[^<>]*")


def _read(pattern: re.Pattern[str], text: str, position: int) -> tuple[list[int], int]:
    """The numbers of tokens of one kind that stand at a position, and the position behind them."""
    numbers = []
    while match := pattern.match(text, position):
        numbers.append(int(match[1]))
        position = match.end()
    return numbers, position


class BoxCodec(MaskCodec):
    """Four location tokens; the mask is the filled box: the baseline of every codec."""

    name = "box"
    ceiling = 0.55

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """<loc0000> to <loc1023>."""
        return tuple(f"<loc{number:04d}>" for number in range(BINS + 1))

    def encode_one(self, mask: np.ndarray) -> str:
        return "".join(f"<loc{bin_:04d}>" for bin_ in box_to_bins(mask_to_box(mask), _size(mask)))

    def decode_one(self, text: str, size: tuple[int, int]) -> Segment:
        box, position = self._box(text, size)
        mask = np.zeros(size, dtype=bool)
        mask[box[0] : box[2], box[1] : box[3]] = True
        return Segment(mask, box, _label(text, position))

    def _box(self, text: str, size: tuple[int, int]) -> tuple[Box, int]:
        bins, position = _read(_LOCATION, text, 0)
        if len(bins) != 4:
            raise MalformedError(f"{len(bins)} location tokens at the beginning of an object, 4 are needed")
        if max(bins) > BINS:
            raise MalformedError(f"location {max(bins)}; the largest is {BINS}")
        box = bins_to_box(bins, size)
        if box is None:
            raise MalformedError("the box ends before it begins")
        return box, position


class LocSegCodec(BoxCodec):
    """Four location tokens and sixteen codes.

    Args:
        tokenizer: The mask tokenizer: None for the shipped one, a folder, or the model.
        soft: Whether masks of a model's answer are read from the probabilities of its codes.
        threshold: Share of certainty above which a pixel of such a mask is inside. Below one half, because a pixel that
            is missed costs the overlap more than one too many: of masks with an IoU of i the best is i / (1 + i).

    Raises:
        ConfigError: If the threshold is not between 0 and 1.
    """

    name = "loc_seg"
    ceiling = 0.88

    def __init__(
        self, tokenizer: str | Path | MaskTokenizer | None = None, soft: bool = True, threshold: float = 0.2
    ) -> None:
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold is {threshold}; it is a share between 0 and 1")
        self._source, self.soft, self.threshold = tokenizer, soft, threshold

    @functools.cached_property
    def tokenizer(self) -> MaskTokenizer:
        """The mask tokenizer, opened when it is first needed."""
        return load_mask_tokenizer(self._source)

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """The location tokens, then <seg000> to the last code."""
        return (*super().new_tokens, *self.code_tokens)

    @property
    def code_tokens(self) -> tuple[str, ...]:
        """<seg000> to the last code."""
        return tuple(f"<seg{number:03d}>" for number in range(self.tokenizer.config.num_codes))

    @property
    def reading(self) -> dict[str, Any]:
        """How codes are read; see ``MaskCodec.reading``."""
        return {"soft": True, "threshold": self.threshold} if self.soft else {}

    def encode_one(self, mask: np.ndarray) -> str:
        bins = box_to_bins(mask_to_box(mask), _size(mask))
        box = bins_to_box(bins, _size(mask))
        assert box is not None  # the bins are in order
        codes = self.tokenizer.encode(crop_mask(mask, box, self.tokenizer.config.image_size)[None])[0]
        return super().encode_one(mask) + "".join(f"<seg{code:03d}>" for code in codes)

    def decode(self, text: str, size: tuple[int, int], probabilities: np.ndarray | None = None) -> Decoded:
        """The masks that a text means; see ``MaskCodec.decode``.

        Args:
            text: Any string.
            size: Height and width of the image.
            probabilities: float[N, K] of the text's N codes; None, or another number than the text has, takes the codes
                that are written.
        """
        decoded = super().decode(text, size)
        cells = self.tokenizer.num_tokens
        if probabilities is None or not decoded.segments or len(probabilities) != cells * len(decoded.segments):
            return decoded
        squares = self.tokenizer.decode_expected(probabilities.reshape(len(decoded.segments), cells, -1))
        inside = 2 * self.threshold - 1  # the tokenizer's masks are -1 outside, 1 inside
        segments = tuple(
            replace(own, mask=paste_mask(square, own.box, decoded.size, threshold=inside))
            for own, square in zip(decoded.segments, squares, strict=True)
        )
        return replace(decoded, segments=segments)

    def decode_one(self, text: str, size: tuple[int, int]) -> Segment:
        box, position = self._box(text, size)
        codes, position = _read(_CODE, text, position)
        wanted, known = self.tokenizer.num_tokens, self.tokenizer.config.num_codes
        if len(codes) != wanted:
            raise MalformedError(f"{len(codes)} segmentation tokens behind the box, {wanted} are needed")
        if max(codes) >= known:
            raise MalformedError(f"segmentation token {max(codes)}; the largest is {known - 1}")
        label = _label(text, position)
        return Segment(paste_mask(self.tokenizer.decode(np.array([codes]))[0], box, size), box, label)


def _size(mask: np.ndarray) -> tuple[int, int]:
    return mask.shape[0], mask.shape[1]


def _label(text: str, position: int) -> str:
    label = text[position:]
    if not _LABEL.fullmatch(label):
        raise MalformedError("further tokens behind an object")
    return label.strip()
