"""Sheets of small images: rows of what belongs together, enlarged without smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vislex.metrics.image_features import as_uint8

__all__ = ["image_sheet"]

_GAP, _LINE = 6, 16


def image_sheet(
    rows: Sequence[Sequence[Any]],
    *,
    columns: Sequence[str] = (),
    captions: Sequence[str] = (),
    side: int = 96,
) -> Image.Image:
    """A table of images.

    Args:
        rows: Images (see ``as_uint8``), as many in each row.
        columns: A heading for each column.
        captions: A line under each row.
        side: Side in pixels of each shown image.

    Returns:
        RGB.
    """
    width = max(len(row) for row in rows) * (side + _GAP) + _GAP
    top = _LINE + _GAP if columns else _GAP
    height = side + _GAP + (_LINE if captions else 0)
    sheet = Image.new("RGB", (width, top + height * len(rows)), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, title in enumerate(columns):
        draw.text((_GAP + i * (side + _GAP), 2), title, fill=(24, 24, 27), font=font)
    for place, row in enumerate(rows):
        for i, image in enumerate(as_uint8(row)):
            shown = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(shown, (_GAP + i * (side + _GAP), top + place * height))
        if captions:
            draw.text((_GAP, top + place * height + side), captions[place], fill=(100, 100, 110), font=font)
    return sheet
