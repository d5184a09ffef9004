"""One picture that shows the suite: scenes with captions, questions in complementary pairs, masks, and the splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vislex.data.openmoji.draws import SUITE_VERSION
from vislex.data.openmoji.manifest import SPLITS, nouns
from vislex.data.openmoji.questions import QUESTION_TYPES
from vislex.data.openmoji.sources import attribution
from vislex.data.openmoji.suite import load

__all__ = ["contact_sheet"]

_CARD, _GAP, _COLUMNS = 256, 24, 6  # an even number of columns keeps pairs together
_INK, _MUTED, _PAPER = (24, 24, 27), (100, 100, 110), (255, 255, 255)
_MASK = (255, 0, 90)


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _wrap(text: str, size: int, width: int = _CARD) -> list[str]:
    """Lines that fit a width at a font size."""
    font, lines = _font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _card(image: Image.Image, texts: Sequence[tuple[str, tuple[int, int, int]]], size: int = 15) -> Image.Image:
    """An image with lines of text below."""
    lines = [(line, colour) for text, colour in texts for line in _wrap(text, size)]
    step = size + 5
    card = Image.new("RGB", (_CARD, _CARD + 8 + step * len(lines)), _PAPER)
    card.paste(image.resize((_CARD, _CARD), Image.Resampling.NEAREST), (0, 0))
    draw = ImageDraw.Draw(card)
    for i, (line, colour) in enumerate(lines):
        draw.text((0, _CARD + 8 + i * step), line, font=_font(size), fill=colour)
    return card


def _section(title: str, cards: Sequence[Image.Image]) -> Image.Image:
    """A heading over rows of cards."""
    rows = [cards[i : i + _COLUMNS] for i in range(0, len(cards), _COLUMNS)]
    heights = [max(card.height for card in row) + _GAP for row in rows]
    section = Image.new("RGB", (_COLUMNS * (_CARD + _GAP) - _GAP, 40 + sum(heights)), _PAPER)
    ImageDraw.Draw(section).text((0, 4), title, font=_font(22), fill=_INK)
    top = 40
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            section.paste(card, (column * (_CARD + _GAP), top))
        top += height
    return section


def _overlay(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image dimmed outside a mask, whose border is drawn in a strong colour."""
    pixels = np.asarray(image).astype(np.float32)
    pixels[~mask] = 0.45 * pixels[~mask] + 0.55 * 255
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            inner &= np.roll(mask, step, axis)
    pixels[mask & ~inner] = _MASK
    return Image.fromarray(pixels.astype(np.uint8))


def _caption_cards(options: dict[str, Any], n: int) -> list[Image.Image]:
    lossy = load("caption", size=n, **options)
    dense = load("caption", size=n, style="dense", **options)
    return [
        _card(row["image"], [*((f"- {text}", _INK) for text in row["captions"][:3]),
                             (f"dense: {long['captions'][0]}", _MUTED)])
        for row, long in zip(lossy, dense, strict=True)
    ]  # fmt: skip


def _question_cards(options: dict[str, Any], n: int) -> list[Image.Image]:
    """Pairs side by side, as many question types as fit."""
    rows = load("vqa", size=400, **options).with_format(None)
    seen: dict[str, int] = {}
    for i in range(0, len(rows), 2):
        seen.setdefault(rows[i]["question_type"], i)
    picked = [i + k for i in list(seen.values())[: n // 2] for k in (0, 1)]
    found = load("vqa", size=400, **options).select(picked)
    return [
        _card(row["image"], [(row["question"], _INK), (row["answer"], _MASK), (row["question_type"], _MUTED)])
        for row in found
    ]


def contact_sheet(
    split: str = "train", *, seed: int = 0, vocabulary: str = "default", image_size: int = 256
) -> Image.Image:
    """Draws a sheet of samples.

    Args:
        split: Where captions, questions and masks are taken from.
        seed: Of the suite.
        vocabulary: "core", "default" or "large".
        image_size: Side at which scenes are rendered; they are shown at 256 pixels.

    Returns:
        RGB, 1,720 pixels wide.
    """
    options: dict[str, Any] = {"split": split, "seed": seed, "vocabulary": vocabulary, "image_size": image_size}
    masks = load("segmentation", size=_COLUMNS * 2, **options)
    others = [load("images", size=1, **(options | {"split": name}))[0] for name in SPLITS if name != split]
    sections = [
        _section(
            f"{SUITE_VERSION} / {split}: captions, {len(nouns(vocabulary))} nouns",
            _caption_cards(options, 2 * _COLUMNS),
        ),
        _section("Questions: neighbours are complementary pairs", _question_cards(options, 2 * len(QUESTION_TYPES))),
        _section(
            "Referring expressions and the mask they mean",
            [_card(_overlay(row["image"], row["mask"]), [(row["expression"], _INK)]) for row in masks],
        ),
        _section(
            "The other splits",
            [
                _card(
                    row["image"],
                    [
                        (row["id"].split("-")[2], _INK),
                        (", ".join(f"{o['concept']} ({o['artist']})" for o in json.loads(row["factors"])["objects"]),
                         _MUTED),
                    ],
                )
                for row in others
            ],
        ),
    ]  # fmt: skip
    margin = 32
    width = sections[0].width + 2 * margin
    footer = _wrap(attribution(), 13, width - 2 * margin)
    height = sum(section.height + _GAP for section in sections) + 2 * margin + 18 * len(footer)
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = margin
    for section in sections:
        sheet.paste(section, (margin, top))
        top += section.height + _GAP
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(footer):
        draw.text((margin, top + 18 * i), line, font=_font(13), fill=_MUTED)
    return sheet
