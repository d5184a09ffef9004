"""One contract for every codec of text: total parsers, round trips, several objects, clear mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import vislex
from vislex.errors import ConfigError, DataError, UnknownNameError
from vislex.metrics.masks import score_masks
from vislex.registry import registry
from vislex.segmentation.codec import MAX_CHARACTERS, MAX_OBJECTS, Decoded, MaskCodec
from vislex.segmentation.mask_tokenizer import MaskTokenizer

NAMES = [entry.name for entry in registry("codecs") if not entry.load().needs_head]
PLAIN = [name for name in NAMES if name != "loc_seg"]
# Pieces of every codec's language, whole and broken, so that a fuzz gets beyond the first character.
PIECES = [
    "<loc0000>", "<loc0512>", "<loc1023>", "<loc1024>", "<loc12>", "<loc٣٣٣٣>", "<seg000>", "<seg127>", "<seg128>",
    "<seg1>", " ; ", ";", " : ", ":", " / ", "/", " ", "\n", "none", "0", "1", "7", "100", "1023", "1024", "999999",
    "12345678901234567890", "-3", "1.5", "²", "the mug", "<", ">", "",
]  # fmt: skip
BOX = "<loc0000><loc0100><loc0900><loc1000>"
WHOLE = [BOX, BOX + "<seg001>" * 16, "<seg005>" * 16, "0 0 1023 1023 : ", "1 2 3 4 5 6 7 8 ", "0 0 1023 1023 : 3 4"]
LANGUAGE = [*WHOLE, *PIECES]
# A byte stands for a piece: drawn at once and shrunk well, where a list of texts takes ten times as long.
TEXTS = st.binary(max_size=8).map(lambda drawn: "".join(LANGUAGE[byte % len(LANGUAGE)] for byte in drawn))


def make(name: str, tokenizer: MaskTokenizer, **options: Any) -> MaskCodec:
    return vislex.create_codec(name, **({"tokenizer": tokenizer} if name == "loc_seg" else {}), **options)


def check(decoded: Decoded, size: tuple[int, int]) -> None:
    mask, boxes = decoded.mask, decoded.filled_boxes
    if decoded.invalid is not None:
        assert decoded.invalid
        assert "\n" not in decoded.invalid
        assert mask is boxes is None
        assert not decoded.segments
        return
    assert mask is not None
    assert boxes is not None
    assert (mask.shape, mask.dtype, boxes.shape) == (size, bool, size)
    for segment in decoded.segments:
        y1, x1, y2, x2 = segment.box
        assert 0 <= y1 < y2 <= size[0]
        assert 0 <= x1 < x2 <= size[1]
        outside = segment.mask.copy()
        outside[y1:y2, x1:x2] = False
        assert not outside.any()


@pytest.mark.parametrize("name", NAMES)
def test_any_string_gives_masks_or_a_reason(name: str, tiny_tokenizer: MaskTokenizer) -> None:
    codec = make(name, tiny_tokenizer)
    seen: set[bool] = set()

    @settings(max_examples=1000)
    @given(TEXTS)
    def fuzz(text: str) -> None:
        size = (1 + len(text) % 12, 1 + len(text) % 5)
        decoded = codec.decode(text, size)
        check(decoded, size)
        seen.add(decoded.invalid is None and bool(decoded.segments))

    fuzz()
    settings(max_examples=100)(given(st.text(max_size=20))(lambda text: check(codec.decode(text, (4, 4)), (4, 4))))()
    assert seen == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_any_mask_has_a_text_that_is_read_back(name: str, tiny_tokenizer: MaskTokenizer) -> None:
    codec = make(name, tiny_tokenizer)

    shape, other = (9, 14), (20, 3)

    @settings(max_examples=50)
    @given(st.lists(arrays(bool, shape).filter(np.any), min_size=1, max_size=3))
    def fuzz(masks: list[np.ndarray]) -> None:
        text = codec.encode(masks)
        decoded = codec.decode(text, shape)
        check(decoded, shape)
        assert len(decoded.segments) == len(masks)
        if name != "polygon":  # its box is that of the simplified outline
            for mask, segment in zip(masks, decoded.segments, strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                assert segment.box == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        check(codec.decode(text, other), other)  # a text fits an image of any size

    fuzz()


def disc(size: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] + 0.5
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("box", {}, 0.77),
        ("text_rle", {}, 0.93),
        ("text_rle", {"grid": 32}, 0.96),
        ("text_rle", {"scope": "image", "grid": 32}, 0.9),
        ("polygon", {}, 0.96),
        ("polygon", {"points": 60}, 0.99),
        ("loc_seg", {}, 0.9),
    ],
)
@pytest.mark.parametrize("size", [40, 300])
def test_a_disc_and_a_ring_come_back(name: str, options: dict[str, Any], least: float, size: int) -> None:
    codec = vislex.create_codec(name, **options)  # loc_seg: the shipped mask tokenizer
    mask = disc(size, (0.4 * size, 0.55 * size), 0.3 * size)
    decoded = codec.decode(codec.encode([mask]), mask.shape)
    assert score_masks([decoded.mask], [mask])["mIoU"] >= least
    ring = mask & ~disc(size, (0.4 * size, 0.55 * size), 0.15 * size)
    back = codec.decode(codec.encode([ring]), ring.shape).mask
    assert bool(back[int(0.4 * size), int(0.55 * size)]) == (name == "box")  # the hole


@pytest.mark.parametrize("name", NAMES)
def test_no_object_and_too_many(name: str, tiny_tokenizer: MaskTokenizer) -> None:
    codec = make(name, tiny_tokenizer)
    assert codec.encode([]) == "none"
    nothing = codec.decode(" none\n", (3, 4))
    assert nothing.invalid is None
    assert not nothing.mask.any()
    mask = np.ones((4, 4), dtype=bool)
    text = codec.encode([mask] * MAX_OBJECTS)
    assert len(codec.decode(text, (4, 4)).segments) == MAX_OBJECTS
    assert "more than 64 objects" in codec.decode(f"{text} ; {codec.encode([mask])}", (4, 4)).invalid
    assert "longer than" in codec.decode("1 " * MAX_CHARACTERS, (4, 4)).invalid
    assert codec.decode("", (4, 4)).invalid
    assert codec.decode(codec.encode([mask]) + " ;", (4, 4)).invalid  # one broken object makes the text invalid
    for masks, reason in (
        ([mask] * (MAX_OBJECTS + 1), "there are 65 masks"),
        ([mask, np.ones((4, 5), dtype=bool)], "differ in size"),
        ([np.zeros((4, 4), dtype=bool)], "mask 0 has no pixel"),
        ([np.ones((4, 4))], "mask 0 is float64"),
    ):
        with pytest.raises(DataError, match=reason):
            codec.encode(masks)
    with pytest.raises(DataError, match="at least 1 each"):
        codec.decode("none", (0, 4))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_codecs_are_ascii_and_stable(name: str) -> None:
    codec = vislex.create_codec(name)
    mask = disc(64, (20, 30), 12)
    text = codec.encode([mask, mask])
    assert text.isascii()
    assert text.count(" ; ") == 1
    assert bool(codec.new_tokens) == (name == "box")
    assert codec.encode([mask.astype(np.uint8) * 255] * 2) == text


def test_names_and_options() -> None:
    assert vislex.list_codecs() == ["box", "loc_seg", "polygon", "seg_head", "text_rle"]
    assert vislex.create_codec().name == "loc_seg"
    with pytest.raises(UnknownNameError, match="did you mean 'loc_seg'"):
        vislex.create_codec("locseg")
    for name, options, reason in (
        ("polygon", {"grid": 3}, "codec 'polygon' does not take these options"),
        ("polygon", {"points": 2}, "points 2 and rings 3"),
        ("polygon", {"rings": 0}, "points 16 and rings 0"),
        ("text_rle", {"grid": 0}, "grid 0 was given"),
        ("text_rle", {"scope": "row"}, "it is box or image"),
    ):
        with pytest.raises(ConfigError, match=reason):
            vislex.create_codec(name, **options)
