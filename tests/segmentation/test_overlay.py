"""Overlays by their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vislex.errors import ConfigError, DataError
from vislex.segmentation.overlay import COLOURS, draw_masks

GREY = 100


def image(width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), (GREY, GREY, GREY))


def mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    found = np.zeros((30, 40), dtype=bool)
    found[top:bottom, left:right] = True
    return found


def test_inside_is_tinted_and_outside_is_left() -> None:
    given = image()
    drawn = np.asarray(draw_masks(given, [mask(5, 5, 20, 25)], alpha=0.5, outline=2, min_side=1))
    assert drawn.shape == (30, 40, 3)
    assert (drawn[:5] == GREY).all()
    assert (drawn[:, 25:] == GREY).all()
    tint = np.round((GREY + np.array(COLOURS[0])) / 2)
    assert np.abs(drawn[7:18, 7:23].astype(int) - tint).max() <= 1
    assert (drawn[5:7, 5:25] == COLOURS[0]).all()  # the outline, two pixels wide
    assert (drawn[18:20, 5:25] == COLOURS[0]).all()
    assert (drawn[5:20, 23:25] == COLOURS[0]).all()
    assert given.getpixel((10, 10)) == (GREY, GREY, GREY)
    plain = np.asarray(draw_masks(given, [mask(5, 5, 20, 25)], alpha=0.0, outline=0, min_side=1))
    assert (plain == GREY).all()
    assert (np.asarray(draw_masks(given, [mask(0, 0, 30, 40)], outline=0, alpha=1, min_side=1)) == COLOURS[0]).all()


def test_several_masks_have_colours_of_their_own_and_later_ones_lie_above() -> None:
    masks = [mask(0, 0, 20, 20), mask(10, 10, 30, 40)]
    drawn = np.asarray(draw_masks(image(), masks, alpha=1.0, outline=0, min_side=1))
    assert tuple(drawn[5, 5]) == COLOURS[0]
    assert tuple(drawn[15, 15]) == tuple(drawn[25, 30]) == COLOURS[1]
    many = draw_masks(image(), [mask(0, 0, 1, 1)] * 9, alpha=1.0, outline=0, min_side=1)
    assert many.getpixel((0, 0)) == COLOURS[8 % len(COLOURS)]


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    drawn = draw_masks(image(), [mask(5, 5, 20, 25)], alpha=1.0, outline=0, min_side=100)
    assert drawn.size == (160, 120)
    assert drawn.getpixel((5 * 4, 5 * 4)) == drawn.getpixel((25 * 4 - 1, 20 * 4 - 1)) == COLOURS[0]
    assert drawn.getpixel((25 * 4, 10 * 4)) == (GREY, GREY, GREY)
    assert draw_masks(image(300, 400), []).size == (300, 400)


def test_the_legend_names_masks_and_says_what_is_missing() -> None:
    masks = [mask(5, 5, 20, 25), None]
    plain = draw_masks(image(), masks)
    named = draw_masks(image(), masks, ["the red mug", "the dog"])
    assert named.width == plain.width
    assert named.height > plain.height
    assert np.array_equal(np.asarray(named)[: plain.height], np.asarray(plain))
    legend = np.asarray(named)[plain.height :].reshape(-1, 3)
    counts = [int((legend == colour).all(1).sum()) for colour in COLOURS[:2]]
    assert counts[0] > 2 * counts[1] > 0  # a filled swatch, and a hollow one
    assert ((legend < 100).all(1)).sum() > 50  # text
    other = np.asarray(draw_masks(image(), masks, ["the red mug", "the cat"]))
    assert not np.array_equal(other, np.asarray(named))
    long = draw_masks(image(), masks, ["a " * 200, "the\ndog"])
    assert long.size == named.size
    border = np.asarray(long)[plain.height :, -2:]
    assert (border == 255).all()  # cut, not run over


def test_modes_and_mistakes() -> None:
    assert draw_masks(Image.new("L", (40, 30), GREY), [mask(0, 0, 2, 2)], min_side=1).mode == "RGB"
    for masks, labels, reason in (
        ([np.ones((40, 30), dtype=bool)], [], r"mask 0 is bool\[40, 30\]; it must be bool\[30, 40\]"),
        ([np.ones((30, 40))], [], "mask 0 is float64"),
        ([None], ["a", "b"], "1 masks and 2 labels"),
    ):
        with pytest.raises(DataError, match=reason):
            draw_masks(image(), masks, labels)
    for options in ({"alpha": 1.5}, {"outline": -1}, {"min_side": 0}):
        with pytest.raises(ConfigError, match="were given; allowed are"):
            draw_masks(image(), [], **options)
