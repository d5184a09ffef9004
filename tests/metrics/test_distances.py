"""Distances of sets against closed forms, and their refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vislex.errors import DataError
from vislex.metrics.distances import (
    frechet_distance,
    inception_score,
    kernel_distance,
    score_frechet,
    score_inception,
    score_kernel,
)
from vislex.metrics.image_features import PUBLISHED_INCEPTION, FeatureExtractor
from vislex.registry import registry


class Colours(nn.Module):
    """Mean colours as features and as logits of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = pixels.mean(dim=(2, 3)) * self.scale
        return means, 20 * means


def extractor(name: str = "colours", sha256: str = "0") -> FeatureExtractor:
    return FeatureExtractor(name, sha256, (8, 8), 3, 3, Colours())


def images(n: int, seed: int) -> list[Image.Image]:
    colours = np.random.default_rng(seed).integers(0, 256, size=(n, 3))
    return [Image.new("RGB", (9, 7), tuple(map(int, colour))) for colour in colours]


def test_frechet_is_the_closed_form_of_two_gaussians() -> None:
    # One axis: means 0 and 3, standard deviations 1 and 2: 9 + (1 - 2)^2.
    a = np.array([[-1.0], [1.0], [-1.0], [1.0]]) * np.sqrt(3 / 4)
    assert frechet_distance(a, 3 + 2 * a) == pytest.approx(10.0)
    draws = np.random.default_rng(0).normal(size=(500, 4))
    assert frechet_distance(draws, draws) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(draws, draws + np.array([1, 2, 0, 0])) == pytest.approx(5.0)
    # Two covariances that do not commute: against the definition through the eigenvalues of their product.
    other = draws @ np.random.default_rng(1).normal(size=(4, 4))
    first, second = np.cov(draws, rowvar=False), np.cov(other, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    shift = draws.mean(0) - other.mean(0)
    assert frechet_distance(draws, other) == pytest.approx(shift @ shift + np.trace(first + second) - 2 * roots)


def test_the_kernel_distance_is_the_mean_over_pairs_of_different_images() -> None:
    a, b = (np.random.default_rng(seed).normal(size=(20, 2)) for seed in (0, 1))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 2 + 1) ** 3)

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(part, 2)]) for part in (a, b)]
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * between)


def test_the_kernel_distance_is_unbiased_and_the_frechet_distance_is_not() -> None:
    draws = np.random.default_rng(0).normal(size=(60, 2, 40, 8))
    kernels = [kernel_distance(a, b) for a, b in draws]
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / np.sqrt(len(kernels))
    assert min(kernels) < 0
    assert min(frechet_distance(a, b) for a, b in draws) > 0.3


def test_the_inception_score_counts_classes_that_are_certain_and_even() -> None:
    certain = np.eye(4)[np.arange(40) % 4]
    assert inception_score(certain, splits=2) == pytest.approx(4.0)
    assert inception_score(np.full((40, 4), 0.25), splits=2) == pytest.approx(1.0)
    assert inception_score(certain[np.zeros(40, dtype=int)], splits=2) == pytest.approx(1.0)


def test_too_few_images_are_refused_with_what_to_do() -> None:
    few, enough = np.random.default_rng(0).normal(size=(2, 30, 30))[0], np.random.default_rng(0).normal(size=(31, 30))
    with pytest.raises(DataError, match="30 images cannot give a Frechet distance in 30 dimensions"):
        frechet_distance(enough, few)
    assert frechet_distance(enough, enough) == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="19 images are too few for a kernel distance"):
        kernel_distance(few[:19], few)
    with pytest.raises(DataError, match="12 images in 3 parts cannot give a score over 4 classes"):
        inception_score(np.eye(4)[np.arange(12) % 4], splits=3)
    with pytest.raises(DataError, match="has no classes"):
        inception_score(np.empty((50, 0)))
    with pytest.raises(DataError, match="cannot be compared"):
        kernel_distance(few, few[:, :3])
    with pytest.raises(DataError, match="not finite"):
        kernel_distance(few, few * np.nan)


def test_only_the_published_inception_gives_an_fid() -> None:
    one, other = images(25, 0), images(30, 1)
    ours, published = extractor(), extractor("inception", PUBLISHED_INCEPTION + "0")
    names = [score(one, other, extractor=e).name for e in (ours, published) for score in (score_frechet, score_kernel)]
    assert names == ["Frechet distance", "kernel distance", "FID", "KID"]
    assert score_frechet(one, other, extractor=extractor("colours", PUBLISHED_INCEPTION)).name == "Frechet distance"
    score = score_inception(one, extractor=ours, splits=2)
    assert (score.name, score.n, score.n_real, score.extractor["splits"]) == ("class score", 25, None, 2)
    assert score_inception(one, extractor=published, splits=2).name == "IS"
    written = score_frechet(one, other, extractor=ours).to_dict()
    assert (written["n"], written["n_real"]) == (25, 30)
    assert written["extractor"]["extractor"] == "colours"
    assert written["extractor"]["sha256"] == "0"
    assert "bicubic" in written["extractor"]["resize"]


def test_the_catalogs_rows_give_their_keys() -> None:
    one, other = images(25, 0), images(30, 1)
    for name, sets in (("frechet-distance@1", (one, other)), ("kernel-distance@1", (one, other))):
        scorer = registry("scorers").get(name).load()
        assert list(scorer(*sets, extractor=extractor())) == list(scorer.keys)
    scorer = registry("scorers").get("inception-score@1").load()
    assert scorer(one, extractor=extractor(), splits=1)["class score"] > 1
