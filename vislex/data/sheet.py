"""``image_table``: pictures in rows and columns under headings, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vislex.errors import ConfigError

__all__ = ["image_table"]

_GAP, _HEADING = 12, 34
_INK, _PAPER = (24, 24, 27), (255, 255, 255)


def image_table(rows: Sequence[Sequence[Image.Image]], headings: Sequence[str], *, side: int = 192) -> Image.Image:
    """Draws a table of pictures.

    Args:
        rows: Pictures, as many in each row as there are headings; each is fitted into a square. Small ones are enlarged
            pixel by pixel.
        headings: Text above each column.
        side: Side of a square in pixels.

    Returns:
        RGB.

    Raises:
        ConfigError: If a row has another length, or there is none.
    """
    if not rows or any(len(row) != len(headings) for row in rows):
        raise ConfigError(f"a table under {len(headings)} headings needs rows of {len(headings)} pictures")
    cell = side + _GAP
    sheet = Image.new("RGB", (_GAP + cell * len(headings), _GAP + _HEADING + cell * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((_GAP + column * cell, _GAP), heading, font=ImageFont.load_default(size=18), fill=_INK)
        for line, row in enumerate(rows):
            sheet.paste(_fitted(row[column], side), (_GAP + column * cell, _GAP + _HEADING + line * cell))
    return sheet


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (side, side), _PAPER)
    square.paste(image.convert("RGB").resize(size, way), ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
