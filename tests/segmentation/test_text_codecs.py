"""``text_rle`` and ``polygon`` by hand, and outlines against what they were traced from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from vislex.segmentation.contour import fill_rings, simplify_ring, trace_rings
from vislex.segmentation.polygon import PolygonCodec
from vislex.segmentation.text_rle import TextRleCodec


def test_runs_by_hand() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[1:3, 1:5] = True
    mask[3:5, 1:3] = True
    codec = TextRleCodec(grid=2)
    # cells: 1 1 / 1 0; bins round(1/6 * 1023) = 170 or 171 (170.5 rounds to even), round(5/6 * 1023) = 852
    assert codec.encode([mask]) == "170 170 852 852 : 0 3"
    assert TextRleCodec(grid=4).encode([mask]) == "170 170 852 852 : 0 10 2 2"
    assert np.array_equal(TextRleCodec(grid=4).decode("170 170 852 852 : 0 10 2 2", (6, 6)).mask, mask)
    assert TextRleCodec(grid=6, scope="image").encode([mask]) == "7 4 2 4 2 2 4 2"


def test_a_line_thinner_than_a_cell_is_kept() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[5, 3] = True
    codec = TextRleCodec(grid=4, scope="image")
    assert codec.encode([mask]) == "0 1"
    mask[20:60, 30:60] = np.eye(40, 30, dtype=bool)
    assert codec.decode(codec.encode([mask]), (64, 64)).mask.any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3 : 4 5", "four numbers from 0 to 1023 and a colon"),
        ("1 2 3 1024 : 4 5", "four numbers from 0 to 1023"),
        ("1 2 3 4", "and a colon"),
        ("9 2 3 4 : 1 1", "ends before it begins"),
        ("1 2 3 4 : 1", "nothing is inside"),
        ("1 2 3 4 : 200 57", "longer than the 256 cells"),
        ("1 2 3 4 : 1 x", "'x' among the runs is no number"),
        ("1 2 3 4 : 1 1 : 2", "':' among the runs is no number"),
        ("1 2 3 4 : 1 12345678", "'12345678' among the runs is no number"),
        ("1 2 3 4 : " + "0 " * 300, "longer than the 256 cells"),
    ],
)
def test_why_runs_are_invalid(text: str, reason: str) -> None:
    assert reason in TextRleCodec().decode(text, (20, 20)).invalid


def test_corners_by_hand() -> None:
    mask = np.zeros((1023, 1023), dtype=bool)
    mask[100:300, 50:400] = True
    text = PolygonCodec(points=4).encode([mask])
    corners = np.array(text.split(), dtype=int).reshape(-1, 2)
    assert np.abs(np.sort(corners, axis=0) - np.sort([[100, 50], [100, 400], [300, 400], [300, 50]], axis=0)).max() <= 1
    square = PolygonCodec().decode("100 50 100 400 300 400 300 50", (1023, 1023))
    assert np.array_equal(square.mask, mask)
    assert square.segments[0].box == (100, 50, 300, 400)
    hole = PolygonCodec().decode("0 0 0 1023 1023 1023 1023 0 / 256 256 256 767 767 767 767 256", (8, 8)).mask
    assert hole.sum() == 64 - 16
    assert not hole[2:6, 2:6].any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3 4", "three corners or more"),
        ("1 2 3 4 5 6 7", "three corners or more"),
        ("1 2 3 4 5 1024", "from 0 to 1023"),
        ("1 2 3 4 5 6 /", "three corners or more"),
        ("1,2 3,4 5,6", "'1,2' among the corners is no number"),
        ("1 2 " * 513, "more than 512 corners"),
        ("/" * 513, "more than 512 rings"),
    ],
)
def test_why_corners_are_invalid(text: str, reason: str) -> None:
    assert reason in PolygonCodec().decode(text, (20, 20)).invalid


def test_options_bound_corners_and_rings() -> None:
    y, x = np.mgrid[:64, :64]
    blobs = (np.sin(x / 4) + np.sin(y / 5)) > 0.4
    text = PolygonCodec(points=5, rings=2).encode([blobs])
    assert text.count("/") == 1
    assert all(len(ring.split()) <= 10 for ring in text.split("/"))
    assert PolygonCodec(points=5, rings=7).encode([blobs]).count("/") > 1


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_filling_the_outlines_gives_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(fill_rings(trace_rings(mask), mask.shape), mask)


def test_simplifying_drops_what_changes_least() -> None:
    square = np.array([[0, 0], [0, 5], [0, 10], [10, 10], [10, 0], [5, 0.1]], dtype=float)
    assert simplify_ring(square, 4).tolist() == [[0, 0], [0, 10], [10, 10], [10, 0]]
    assert len(simplify_ring(square, 10)) == 6
