"""Scores of pairs against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.errors import DataError
from vislex.metrics.reconstruction import feature_cosine, psnr, retrieval_hits, score_pairs, ssim
from vislex.registry import registry


def flat(level: int, side: int = 12) -> np.ndarray:
    return np.full((side, side, 3), level, dtype=np.uint8)


def test_psnr_is_the_log_of_the_mean_squared_error() -> None:
    assert psnr([flat(100), flat(7)], [flat(110), flat(7)]) == pytest.approx([10 * np.log10(255**2 / 100), 100.0])
    half = flat(100)
    half[:6] = 110  # half of the pixels are 10 off
    assert psnr([half], [flat(100)]) == pytest.approx([10 * np.log10(255**2 / 50)])


def test_images_are_quantised_to_8_bits() -> None:
    nearly = torch.full((3, 12, 12), 100.4 / 255)
    assert psnr([nearly, Image.fromarray(flat(100))], [flat(100), flat(100)]) == pytest.approx([100, 100])
    assert psnr([nearly.numpy() + 0.2 / 255], [flat(100)]) == pytest.approx([10 * np.log10(255**2)])
    assert psnr([np.full((12, 12, 3), 1.7)], [flat(255)]) == pytest.approx([100])


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim([flat(100), flat(9)], [flat(150), flat(9)]) == pytest.approx([expected, 1.0])


def test_ssim_is_the_formula_at_every_window() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, size=(2, 13, 12, 3)).astype(np.uint8)
    grid = np.arange(11) - 5
    window = np.exp(-(grid[:, None] ** 2 + grid[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(3):
        for left in range(2):
            for channel in range(3):
                x, y = (im[top : top + 11, left : left + 11, channel].astype(float) for im in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                values.append(
                    (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
                )  # equations 13
    assert ssim([a], [b]) == pytest.approx([np.mean(values)])
    assert ssim([a], [a]) == pytest.approx([1.0])


def test_cosines_and_retrieval_by_hand() -> None:
    originals = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    images = np.array([[2.0, 0.1], [1.0, 1.0], [1.0, 1.1]])
    assert feature_cosine(images, originals)[1] == pytest.approx(1 / np.sqrt(2))
    assert retrieval_hits(images, originals).tolist() == [1.0, 0.0, 1.0]
    assert retrieval_hits(np.ones((3, 2)), np.ones((3, 2))).tolist() == [0.0, 0.0, 0.0]  # ties retrieve nothing


def test_pairs_with_a_real_extractor() -> None:
    from vislex.metrics.image_features import load_extractor

    draws = np.random.default_rng(0).integers(0, 256, size=(3, 4, 4, 3)).astype(np.uint8)
    originals = [Image.fromarray(x).resize((48, 48), Image.Resampling.NEAREST) for x in draws]
    extractor = load_extractor()
    scores = score_pairs(originals, originals, extractor=extractor)
    assert {name: values.tolist() for name, values in scores.items() if name != "feature cosine"} == {
        "PSNR": [100.0] * 3, "SSIM": pytest.approx([1.0] * 3), "retrieval R@1": [1.0] * 3,
    }  # fmt: skip
    assert scores["feature cosine"] == pytest.approx([1.0] * 3)
    turned = [originals[1], originals[2], originals[0]]
    assert score_pairs(turned, originals, extractor=extractor)["retrieval R@1"].sum() == 0
    with pytest.raises(DataError, match="at least two originals"):
        score_pairs(originals[:1], originals[:1], extractor=extractor)
    for name in ("feature-cosine@1", "retrieval-top1@1", "psnr@1", "ssim@1"):
        scorer = registry("scorers").get(name).load()
        options = {"extractor": extractor} if name == "retrieval-top1@1" else {}
        assert list(scorer(originals, originals, **options)) == list(scorer.keys)
    assert "feature cosine" not in score_pairs(originals, originals)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(DataError, match="2 images and 1 originals"):
        psnr([flat(1), flat(2)], [flat(1)])
    with pytest.raises(DataError, match="resize the original"):
        psnr([flat(1)], [flat(1, 14)])
    with pytest.raises(DataError, match="windows of 11"):
        ssim([flat(1, 10)], [flat(1, 10)])
    with pytest.raises(DataError, match="shape"):
        psnr([np.zeros((12, 12))], [flat(1)])
    with pytest.raises(DataError, match="int64"):
        psnr([flat(1).astype(np.int64)], [flat(1)])
    with pytest.raises(DataError, match="finite"):
        psnr([np.full((12, 12, 3), np.nan)], [flat(1)])
