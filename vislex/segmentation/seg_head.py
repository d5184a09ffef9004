"""``seg_head``: one token ``<SEG>`` for all objects of an answer; the mask comes from a head of the model (LISA).

The text says that there is a mask, not which (arXiv 2308.00692, section 3.2): a parser needs the mask head's
probabilities beside it, and the text alone is invalid. What is lost is the head's resolution.

Ceilings on 500 masks of the suite at 64 and 256 pixels (``benchmarks/results/codec_ceilings.json``): mIoU 0.92 with
32 x 32 cells over the image, as a head has on the embedded encoders' 8 x 8 patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vislex.segmentation.boxes import mask_to_box, paste_mask
from vislex.segmentation.codec import MAX_CHARACTERS, NOTHING, Decoded, MalformedError, MaskCodec, Segment

__all__ = ["SEG_TOKEN", "MaskFrame", "SegHeadCodec"]

SEG_TOKEN = "<SEG>"


@dataclass(frozen=True)
class MaskFrame:
    """How the cells of a head's mask lie over an image.

    Attributes:
        size: Rows and columns of cells.
        padded_to: Height and width of an input that images are fitted into, padded right and below; None where they
            are stretched to it.
    """

    size: tuple[int, int]
    padded_to: tuple[int, int] | None = None

    def shrink(self, mask: np.ndarray) -> np.ndarray:
        """The share of each cell that bool[H, W] covers (bilinear, antialiased): float32[size]."""
        canvas = np.zeros(self._canvas(mask.shape[0], mask.shape[1]), dtype=np.float32)
        canvas[: mask.shape[0], : mask.shape[1]] = mask
        resized = F.interpolate(torch.from_numpy(canvas)[None, None], self.size, mode="bilinear", antialias=True)
        shrunk: np.ndarray = resized[0, 0].numpy()
        return shrunk

    def grow(self, probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Where float[size] is above one half, resized (bilinear) to an image of ``size``: bool[H, W]."""
        canvas = self._canvas(*size)
        return paste_mask(probabilities, (0, 0, *canvas), canvas, threshold=0.5)[: size[0], : size[1]]

    def _canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image with its padding, at its own scale."""
        if self.padded_to is None:
            return height, width
        scale = max(height / self.padded_to[0], width / self.padded_to[1])
        return max(round(self.padded_to[0] * scale), height), max(round(self.padded_to[1] * scale), width)


class SegHeadCodec(MaskCodec):
    """``<SEG>``, whose mask a head of the model gives. Options that are not given are those of the model's head.

    Args:
        hidden_size: Width of the head on the encoder's grid; 128 in a new one.
        upscale: Cells of the mask along a side of the grid's, a power of two, doubled until a side has 16; 4 in a new
            one.
        bce_weight: Weight of the binary cross-entropy beside that of the text; 2 in a new one.
        dice_weight: Weight of the Dice loss; 0.5 in a new one.

    Attributes:
        frame: How the head's mask lies over an image; that of a model is put here with the model.
    """

    name = "seg_head"
    ceiling = 0.92
    needs_head = True

    def __init__(
        self,
        hidden_size: int | None = None,
        upscale: int | None = None,
        bce_weight: float | None = None,
        dice_weight: float | None = None,
    ) -> None:
        options = {
            "hidden_size": hidden_size, "upscale": upscale, "bce_weight": bce_weight, "dice_weight": dice_weight,
        }  # fmt: skip
        self.head_options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        self.frame = MaskFrame((32, 32))

    @property
    def label(self) -> str:
        """With the cells of the mask."""
        return f"{self.name}, {self.frame.size[0]} x {self.frame.size[1]} cells"

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """<SEG>."""
        return (SEG_TOKEN,)

    def encode(self, masks: Sequence[np.ndarray]) -> str:
        """``<SEG>``, whatever the number of objects; "none" for no object; see ``MaskCodec.encode``."""
        text = super().encode(masks)
        return text if text == NOTHING else SEG_TOKEN

    def encode_one(self, mask: np.ndarray) -> str:
        return SEG_TOKEN

    def target(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """What the head is to give for the objects bool[H, W] of an image: float32[h, w], their union."""
        return self.frame.shrink(np.logical_or.reduce([np.asarray(mask, dtype=bool) for mask in masks]))

    def decode(self, text: str, size: tuple[int, int], probabilities: np.ndarray | None = None) -> Decoded:
        """The mask that a text with a head's answer means; see ``MaskCodec.decode``.

        Args:
            text: Any string.
            size: Height and width of the image.
            probabilities: float[h, w] of the head; without them a text that is ``<SEG>`` is invalid.
        """
        decoded = super().decode(text, size)
        if probabilities is None or not self.is_mask(text):
            return decoded
        mask = self.frame.grow(probabilities, decoded.size)
        return Decoded(decoded.size, (Segment(mask, mask_to_box(mask)),) if mask.any() else ())

    def decode_one(self, text: str, size: tuple[int, int]) -> Segment:
        if self.is_mask(text):
            raise MalformedError(f"{SEG_TOKEN} once, and the mask of the model's head with it, are needed")
        raise MalformedError(f"the text is not {SEG_TOKEN}")

    def decode_ideal(self, text: str, mask: np.ndarray) -> Decoded:
        """See ``MaskCodec.decode_ideal``: the head gives the right mask at its own resolution."""
        return self.decode(text, (mask.shape[0], mask.shape[1]), self.target([mask]))

    def is_mask(self, text: str) -> bool:
        """Whether a text stands for a mask of the head."""
        return len(text) <= MAX_CHARACTERS and text.strip() == SEG_TOKEN
