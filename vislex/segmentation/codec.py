"""What a mask codec is: masks to a text that a model can write, and any text back to masks or a reason why not.

Parsers are total. What a model writes is never an exception: it is segments, or ``invalid`` with the reason, which
scores an IoU of 0 and is counted in the invalid rate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vislex.errors import DataError
from vislex.segmentation.boxes import Box, check_mask

__all__ = ["MAX_CHARACTERS", "MAX_OBJECTS", "NOTHING", "SEPARATOR", "Decoded", "MalformedError", "MaskCodec", "Segment"]

SEPARATOR = " ; "
NOTHING = "none"  # the text of no object at all
MAX_OBJECTS = 64
MAX_CHARACTERS = 65_536


class MalformedError(Exception):
    """Why a text is no segment; ``MaskCodec.decode`` turns it into ``Decoded.invalid``."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One object of a text.

    Attributes:
        mask: bool[H, W].
        box: Its box in pixels.
        label: What the text calls it; "" if nothing.
    """

    mask: np.ndarray
    box: Box
    label: str = ""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a text means.

    Attributes:
        size: Height and width of the image.
        segments: The objects, in their order; none where the text is "none", or invalid.
        invalid: Why the text means nothing; None for a valid one.
    """

    size: tuple[int, int]
    segments: tuple[Segment, ...] = ()
    invalid: str | None = None

    @property
    def mask(self) -> np.ndarray | None:
        """bool[H, W]: the union of the objects; None where the text is invalid, as ``score_masks`` takes it."""
        if self.invalid is not None:
            return None
        union = np.zeros(self.size, dtype=bool)
        for segment in self.segments:
            union |= segment.mask
        return union

    @property
    def filled_boxes(self) -> np.ndarray | None:
        """bool[H, W]: the objects' boxes, filled: the baseline that a mask must beat; None where invalid."""
        if self.invalid is not None:
            return None
        union = np.zeros(self.size, dtype=bool)
        for y1, x1, y2, x2 in (segment.box for segment in self.segments):
            union[y1:y2, x1:x2] = True
        return union


class MaskCodec(ABC):
    """Base of the codecs: subclasses say how one object is written and read.

    Attributes:
        name: Name in the catalog.
        ceiling: Stated mIoU with its default options, when right masks of the suite go to text and back: what no
            model that writes such text can pass. Measured by ``python -m vislex.benchmarks.codec_ceilings``.
        needs_head: Whether the masks come from a head of the model, and the text alone says only that there is one.
    """

    name: ClassVar[str]
    ceiling: ClassVar[float]
    needs_head: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name

    @property
    def reading(self) -> dict[str, Any]:
        """What else than its text decides how a model's answer is read: a part of the identity of its results."""
        return {}

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Tokens that a vocabulary must have, each as one; empty where plain text is enough."""
        return ()

    def encode(self, masks: Sequence[np.ndarray]) -> str:
        """The text of the objects of an image, joined by " ; "; "none" for no object.

        Args:
            masks: bool[H, W] each, at the image's own resolution.

        Raises:
            DataError: If one is no mask or has no pixel, they differ in size, or are more than ``MAX_OBJECTS``.
        """
        checked = [check_mask(mask, f"mask {i}") for i, mask in enumerate(masks)]
        if len({mask.shape for mask in checked}) > 1:
            raise DataError(f"the masks differ in size: {', '.join(str(mask.shape) for mask in checked)}")
        if len(checked) > MAX_OBJECTS:
            raise DataError(f"there are {len(checked)} masks; a text holds at most {MAX_OBJECTS}")
        return SEPARATOR.join(self.encode_one(mask) for mask in checked) or NOTHING

    def decode(self, text: str, size: tuple[int, int]) -> Decoded:
        """The masks that a text means; never raises for what the text holds.

        Args:
            text: Any string.
            size: Height and width of the image.

        Raises:
            DataError: If the size is not positive.
        """
        height, width = (int(side) for side in size)
        if height < 1 or width < 1:
            raise DataError(f"size {tuple(size)} was given; it is (height, width), at least 1 each")
        size = (height, width)
        if len(text) > MAX_CHARACTERS:
            return Decoded(size, invalid=f"longer than {MAX_CHARACTERS:,} characters")
        if text.strip() == NOTHING:
            return Decoded(size)
        pieces = text.split(SEPARATOR.strip())
        if len(pieces) > MAX_OBJECTS:
            return Decoded(size, invalid=f"more than {MAX_OBJECTS} objects")
        try:
            return Decoded(size, tuple(self.decode_one(piece.strip(), size) for piece in pieces))
        except MalformedError as error:
            return Decoded(size, invalid=str(error))

    def decode_ideal(self, text: str, mask: np.ndarray) -> Decoded:
        """What a text means if all beside it that its codec needs is right.

        Args:
            text: Of a right mask.
            mask: That mask, bool[H, W].
        """
        return self.decode(text, (mask.shape[0], mask.shape[1]))

    @abstractmethod
    def encode_one(self, mask: np.ndarray) -> str:
        """The text of one object, bool[H, W] with at least one pixel."""

    @abstractmethod
    def decode_one(self, text: str, size: tuple[int, int]) -> Segment:
        """The object of one text without surrounding spaces.

        Raises:
            MalformedError: With the reason, if it is none.
        """
