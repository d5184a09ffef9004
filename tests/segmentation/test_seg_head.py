"""``seg_head``: a text that is one token, and the mask that comes with it, over images of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vislex
from vislex.errors import ConfigError, DataError
from vislex.metrics.masks import score_masks
from vislex.segmentation.codec import MAX_CHARACTERS
from vislex.segmentation.seg_head import SEG_TOKEN, MaskFrame, SegHeadCodec

PIECES = ["<SEG>", "<seg>", "<SEG", " ", "\n", " ; ", ";", "none", "0 1 2 3", "<loc0000>", "the mug", ""]
TEXTS = st.binary(max_size=4).map(lambda drawn: "".join(PIECES[byte % len(PIECES)] for byte in drawn))


def disc(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


@settings(max_examples=300)
@given(TEXTS)
def test_only_the_token_is_a_mask(text: str) -> None:
    codec = SegHeadCodec()
    with_mask, alone = (codec.decode(text, (20, 30), *own) for own in ((np.ones(codec.frame.size),), ()))
    assert (with_mask.invalid is None) == (text.strip() in ("<SEG>", "none"))
    assert bool(with_mask.segments) == (text.strip() == "<SEG>")
    assert (alone.invalid is None) == (text.strip() == "none")


def test_texts_and_targets() -> None:
    codec = vislex.create_codec("seg_head")
    first, second = disc(64, 64, (20, 20), 9), disc(64, 64, (40, 44), 12)
    assert (codec.new_tokens, codec.encode([first])) == ((SEG_TOKEN,), SEG_TOKEN)
    assert codec.encode([first, second]) == SEG_TOKEN  # one token for all objects of an answer
    assert codec.encode([]) == "none"
    target = codec.target([first, second])
    assert (target.shape, target.dtype) == ((32, 32), np.float32)
    assert np.array_equal(target, np.maximum(codec.target([first]), codec.target([second])))
    assert np.allclose(codec.target([first]), first.reshape(32, 2, 32, 2).mean((1, 3)), atol=0.2)
    decoded = codec.decode(SEG_TOKEN, (64, 64), target)
    assert score_masks([decoded.mask], [first | second])["mIoU"] > 0.93
    (segment,) = decoded.segments
    assert segment.box == tuple(np.array([np.argwhere(segment.mask).min(0), np.argwhere(segment.mask).max(0) + 1]).flat)
    nothing = codec.decode(SEG_TOKEN, (64, 64), np.full((32, 32), 0.4))
    assert nothing.invalid is None
    assert not nothing.mask.any()
    assert "longer than" in codec.decode(" " * MAX_CHARACTERS + SEG_TOKEN, (4, 4), target).invalid
    assert "the mask of the model's head with it" in codec.decode(SEG_TOKEN, (4, 4)).invalid
    assert codec.decode("<SEG> ; <SEG>", (4, 4), target).invalid
    assert codec.label == "seg_head, 32 x 32 cells"
    with pytest.raises(DataError, match="mask 0 has no pixel"):
        codec.encode([np.zeros((4, 4), dtype=bool)])
    with pytest.raises(DataError, match="at least 1 each"):
        codec.decode(SEG_TOKEN, (0, 4), target)
    with pytest.raises(ConfigError, match="codec 'seg_head' does not take these options"):
        vislex.create_codec("seg_head", grid=3)


@pytest.mark.parametrize("shape", [(120, 60), (50, 140), (96, 96), (12, 9)])
@pytest.mark.parametrize("padded_to", [None, (16, 16), (16, 32)])
def test_a_mask_comes_back_on_images_of_any_shape(shape: tuple[int, int], padded_to: tuple[int, int] | None) -> None:
    frame = MaskFrame((64, 64), padded_to)
    mask = disc(*shape, (0.6 * shape[0], 0.5 * shape[1]), 0.3 * min(shape))
    cells = frame.shrink(mask)
    back = frame.grow(cells, shape)
    assert (back.shape, back.dtype) == (shape, bool)
    assert score_masks([back], [mask])["mIoU"] > 0.9
    centre = np.argwhere(cells > 0.5).mean(0) / 63
    scale = [1.0, 1.0]
    if padded_to is not None:  # the image lies in the upper left corner
        fit = min(padded_to[0] / shape[0], padded_to[1] / shape[1])
        scale = [shape[0] * fit / padded_to[0], shape[1] * fit / padded_to[1]]
    assert centre == pytest.approx([0.6 * scale[0], 0.5 * scale[1]], abs=0.05)
