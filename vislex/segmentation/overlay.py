"""Masks drawn over an image, with a legend below it: for ``vislex segment`` and reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vislex.errors import ConfigError, DataError

__all__ = ["COLOURS", "draw_masks"]

# Okabe and Ito's colours, which people with any colour vision tell apart, in an order that starts with the strongest.
COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 228, 66), (86, 180, 233), (230, 159, 0))
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def draw_masks(
    image: Image.Image,
    masks: Sequence[np.ndarray | None],
    labels: Sequence[str] = (),
    *,
    alpha: float = 0.45,
    outline: int = 2,
    min_side: int = 256,
) -> Image.Image:
    """Tints masks, draws their outlines and names them below the image.

    Args:
        image: The image; converted to RGB, not changed.
        masks: bool[H, W] each, of the image's size; None for an answer that was no mask, which the legend says.
            Later ones lie above earlier ones.
        labels: A text a mask; none draws no legend.
        alpha: Share of the colour inside a mask, 0 to 1.
        outline: Width of the outlines in pixels of the result; 0 draws none.
        min_side: The image is enlarged by a whole factor until its shorter side has at least this many pixels.

    Returns:
        RGB: the enlarged image, and below it a line a label.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a mask has another size than the image, or the numbers of labels and masks differ.
    """
    if not 0 <= alpha <= 1 or outline < 0 or min_side < 1:
        raise ConfigError(
            f"alpha {alpha}, outline {outline} and min_side {min_side} were given; allowed are 0 to 1, at least 0 and "
            "at least 1"
        )
    if labels and len(labels) != len(masks):
        raise DataError(f"there are {len(masks)} masks and {len(labels)} labels; give one each, or no labels")
    size = (image.height, image.width)
    factor = -(-min_side // min(size)) if min(size) < min_side else 1
    large = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    pixels = np.asarray(large, dtype=np.float32).copy()
    for i, mask in enumerate(masks):
        if mask is None:
            continue
        array = np.asarray(mask)
        if array.shape != size or array.dtype.kind not in "bui":
            raise DataError(
                f"mask {i} is {array.dtype}{list(array.shape)}; it must be bool{list(size)}, as the image is"
            )
        inside = array.astype(bool).repeat(factor, axis=0).repeat(factor, axis=1)
        colour = np.array(COLOURS[i % len(COLOURS)], dtype=np.float32)
        pixels[inside] = (1 - alpha) * pixels[inside] + alpha * colour
        pixels[inside & ~_shrunk(inside, outline)] = colour
    drawn = Image.fromarray(np.round(pixels).astype(np.uint8))
    return _with_legend(drawn, masks, labels) if labels else drawn


def _shrunk(inside: np.ndarray, pixels: int) -> np.ndarray:
    """Without the pixels that have one outside within a distance of ``pixels``; the image's border is outside."""
    for _ in range(pixels):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def _with_legend(drawn: Image.Image, masks: Sequence[np.ndarray | None], labels: Sequence[str]) -> Image.Image:
    font_size = max(12, drawn.width // 24)
    font, line = ImageFont.load_default(font_size), round(1.5 * font_size)
    page = Image.new("RGB", (drawn.width, drawn.height + line * len(labels) + line // 3), _PAPER)
    page.paste(drawn)
    pen = ImageDraw.Draw(page)
    for i, (mask, label) in enumerate(zip(masks, labels, strict=True)):
        top = drawn.height + line // 4 + i * line
        colour = COLOURS[i % len(COLOURS)]
        swatch = (line // 4, top + line // 6, line // 4 + font_size, top + line // 6 + font_size)
        pen.rectangle(swatch, fill=None if mask is None else colour, outline=colour, width=2)
        text = label if mask is not None else f"{label} (no mask)"
        left = line // 4 + 2 * font_size
        pen.text((left, top + line // 8), _fitting(text, font, drawn.width - left - line // 4), fill=_INK, font=font)
    return page


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text on one line, cut with "..." where it is too wide."""
    whole = " ".join(text.split())
    if font.getlength(whole) <= width:
        return whole
    for end in range(len(whole), 0, -1):
        if font.getlength(whole[:end].rstrip() + "...") <= width:
            return whole[:end].rstrip() + "..."
    return "..."
