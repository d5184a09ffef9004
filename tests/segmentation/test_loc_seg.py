"""``loc_seg`` and ``box`` token by token, as PaliGemma's codec is described."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vislex.errors import ConfigError
from vislex.segmentation.boxes import bins_to_box, box_to_bins, crop_mask, paste_mask
from vislex.segmentation.loc_seg import BoxCodec, LocSegCodec
from vislex.segmentation.mask_tokenizer import MaskTokenizer
from vislex.segmentation.mask_tokenizer import load_mask_tokenizer as load


def test_locations_are_y_x_y_x_over_1023() -> None:
    mask = np.zeros((100, 200), dtype=bool)
    mask[10:50, 20:200] = True
    assert BoxCodec().encode([mask]) == "<loc0102><loc0102><loc0512><loc1023>"
    assert np.array_equal(BoxCodec().decode("<loc0102><loc0102><loc0512><loc1023>", (100, 200)).mask, mask)
    # / 1024 would lose the last column of a wide image
    assert bins_to_box((0, 0, 1023, 1023), (2000, 3000)) == (0, 0, 2000, 3000)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 640, 1023])
def test_every_box_up_to_1023_pixels_comes_back(length: int) -> None:
    for start in range(0, length, max(length // 40, 1)):
        for stop in range(start + 1, length + 1, max(length // 40, 1)):
            box = (start, 0, stop, 1)
            assert bins_to_box(box_to_bins(box, (length, 1)), (length, 1)) == box


def test_the_codes_are_those_of_the_cut_out_mask(tiny_tokenizer: MaskTokenizer) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((90, 70), dtype=bool)
    mask[13:61, 5:66] = rng.random((48, 61)) < 0.5
    mask[13, 5] = mask[60, 65] = True
    text = LocSegCodec(tiny_tokenizer).encode([mask])
    square = F.interpolate(
        torch.tensor(mask[13:61, 5:66]).float()[None, None], (64, 64), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        features = tiny_tokenizer.encoder(square * 2 - 1)[0].permute(1, 2, 0).reshape(16, -1)  # raster order
        codes = torch.cdist(features, tiny_tokenizer.codebook).argmin(-1)
        image = tiny_tokenizer.decoder(tiny_tokenizer.codebook[codes].T.reshape(1, -1, 4, 4))
        back = F.interpolate(image, (48, 61), mode="bilinear", antialias=True)[0, 0] > 0
    assert text.endswith("".join(f"<seg{code:03d}>" for code in codes))
    assert len(set(codes.tolist())) > 1
    decoded = LocSegCodec(tiny_tokenizer).decode(text, (90, 70))
    assert np.array_equal(decoded.mask[13:61, 5:66], back.numpy())
    assert decoded.filled_boxes.sum() == 48 * 61


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 location tokens"),
        ("<loc0001><loc0001><loc0009>", "3 location tokens"),
        ("a <loc0001><loc0001><loc0009><loc0009>", "0 location tokens"),
        ("<loc0001><loc0001><loc0009><loc0009><loc0010>", "5 location tokens"),
        ("<loc0001><loc0001><loc1024><loc0009>", "location 1024; the largest is 1023"),
        ("<loc0010><loc0001><loc0009><loc0009>", "ends before it begins"),
        ("<loc0001><loc0001><loc0009><loc0009>" + "<seg000>" * 15, "15 segmentation tokens behind the box, 16"),
        ("<loc0001><loc0001><loc0009><loc0009>" + "<seg000>" * 15 + "<seg128>", "token 128; the largest is 127"),
        ("<loc0001><loc0001><loc0009><loc0009>" + "<seg000>" * 16 + " a <loc0001>", "further tokens"),
    ],
)
def test_why_a_text_is_invalid(text: str, reason: str, tiny_tokenizer: MaskTokenizer) -> None:
    assert reason in LocSegCodec(tiny_tokenizer).decode(text, (20, 20)).invalid


def test_spaces_between_tokens_and_labels_are_read(tiny_tokenizer: MaskTokenizer) -> None:
    spaced = "<loc0001> <loc0001> <loc0900>\n<loc0900> " + "<seg003> " * 16 + "red mug"
    decoded = LocSegCodec(tiny_tokenizer).decode(f"{spaced} ; {spaced}", (20, 20))
    assert [segment.label for segment in decoded.segments] == ["red mug"] * 2
    assert BoxCodec().decode("<loc0001><loc0001><loc0900><loc0900> mug", (20, 20)).segments[0].label == "mug"


def test_vocabulary(tiny_tokenizer: MaskTokenizer) -> None:
    tokens = LocSegCodec(tiny_tokenizer).new_tokens
    assert len(tokens) == 1024 + 128
    assert (tokens[0], tokens[1023], tokens[1024], tokens[-1]) == ("<loc0000>", "<loc1023>", "<seg000>", "<seg127>")


def test_a_small_object_of_a_large_image_has_a_box() -> None:
    mask = np.zeros((5000, 5000), dtype=bool)
    mask[4999, 4999] = True
    box = BoxCodec().decode(BoxCodec().encode([mask]), (5000, 5000)).segments[0].box
    assert box == (4999, 4999, 5000, 5000)


def test_crop_and_paste_keep_the_area() -> None:
    mask = np.zeros((50, 50), dtype=bool)
    mask[10:30] = True
    square = crop_mask(mask, (0, 0, 50, 50), 25)
    assert square.mean() == pytest.approx(mask.mean(), abs=0.01)
    assert np.array_equal(paste_mask(square, (0, 0, 50, 50), (50, 50), threshold=0.5), mask)


def test_the_shipped_tokenizer_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "vislex.segmentation.loc_seg.load_mask_tokenizer", lambda source: asked.append(source) or load(source)
    )
    codec, mask = LocSegCodec(), np.ones((8, 8), dtype=bool)
    assert codec.decode(codec.encode([mask, mask]), (8, 8)).invalid is None
    assert asked == [None]


def test_codes_of_which_a_model_is_sure_are_those_of_the_text(tiny_tokenizer: MaskTokenizer) -> None:
    codec = LocSegCodec(tiny_tokenizer, threshold=0.5)
    cells, codes = tiny_tokenizer.num_tokens, tiny_tokenizer.config.num_codes
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 30)) < share for share in (0.3, 0.7)]
    text = codec.encode(masks)
    written = np.concatenate([tiny_tokenizer.encode(crop_mask(mask, (0, 0, 40, 30), 64)[None])[0] for mask in masks])
    sure = np.eye(codes)[written]
    for one, other in zip(
        codec.decode(text, (40, 30), sure).segments, codec.decode(text, (40, 30)).segments, strict=True
    ):
        assert np.array_equal(one.mask, other.mask)
        assert one.box == other.box
    unsure = np.full_like(sure, 1 / codes)
    found = codec.decode(text, (40, 30), unsure)
    mean = tiny_tokenizer.codebook.mean(0).expand(1, cells, -1)
    with torch.no_grad():
        square = tiny_tokenizer.reconstruct(mean)[0].numpy()
    assert np.array_equal(found.segments[1].mask, paste_mask(square, (0, 0, 40, 30), (40, 30)))
    assert np.array_equal(codec.decode(text, (40, 30), sure[:cells]).mask, codec.decode(text, (40, 30)).mask)
    assert codec.decode("a dog", (40, 30), sure).invalid is not None


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ConfigError, match="a share between 0 and 1"):
        LocSegCodec(threshold=threshold)
