"""Distances between two sets of images in a feature space, and the Inception score of one set.

None means anything without its number of images and its extractor: each value carries both. A Frechet distance on other
features than the published Inception is never called FID.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vislex.errors import DataError
from vislex.metrics.base import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vislex.metrics.image_features import FeatureExtractor, Features

    Images = Sequence[Any] | np.ndarray | Features

__all__ = [
    "FRECHET",
    "INCEPTION",
    "KERNEL",
    "SetScore",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "score_frechet",
    "score_inception",
    "score_kernel",
]

LEAST_FOR_KERNEL = 20


@dataclass(frozen=True)
class SetScore:
    """A value of sets of images.

    Attributes:
        name: "FID", "KID" and "IS" on the published Inception; "Frechet distance", "kernel distance", "class score"
            elsewhere.
        value: The value.
        n: Number of images of the generated set.
        n_real: Number of images of the real set; None where there is none.
        extractor: Id, hash, size and resize kernel of the feature extractor.
    """

    name: str
    value: float
    n: int
    n_real: int | None
    extractor: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    Args:
        a: float[N, D].
        b: float[M, D].

    Raises:
        DataError: If a set has no more features than D: its covariance is singular, and the distance mostly bias.
    """
    a, b = _checked(a, b)
    for features in (a, b):
        if len(features) <= features.shape[1]:
            raise DataError(
                f"{len(features)} images cannot give a Frechet distance in {features.shape[1]} dimensions: the "
                f"covariance is singular; take more than {features.shape[1]} images, or the kernel distance, which is "
                "unbiased"
            )
    difference = a.mean(axis=0) - b.mean(axis=0)
    first, second = (np.cov(features, rowvar=False) for features in (a, b))
    values, vectors = np.linalg.eigh(np.atleast_2d(first))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    # tr sqrt(A B) = tr sqrt(sqrt(A) B sqrt(A)), which is symmetric and positive
    cross = np.linalg.eigvalsh(root @ np.atleast_2d(second) @ root)
    trace = float(np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)))
    return float(difference @ difference) + trace - 2 * float(np.sqrt(np.clip(cross, 0, None)).sum())


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, section 4); it may be below 0.

    Args:
        a: float[N, D].
        b: float[M, D].

    Raises:
        DataError: If a set has fewer than 20 features.
    """
    a, b = _checked(a, b)
    for features in (a, b):
        if len(features) < LEAST_FOR_KERNEL:
            raise DataError(
                f"{len(features)} images are too few for a kernel distance; take {LEAST_FOR_KERNEL} or more"
            )
    within = [_kernel(x, x) for x in (a, b)]
    means = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    return float(means[0] + means[1] - 2 * _kernel(a, b).mean())


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> float:
    """exp of the mean KL divergence of p(y|x) from p(y), mean over ``splits`` parts (Salimans et al. 2016).

    Args:
        probabilities: float[N, K].
        splits: Parts, in their order.

    Raises:
        DataError: If a part has no more images than there are classes: it could not reach all of them.
    """
    n, classes = probabilities.shape
    if classes == 0:
        raise DataError("this feature extractor has no classes; take efficientnet-lite0 or inception:FILE")
    if splits < 1 or n // splits <= classes:
        raise DataError(
            f"{n} images in {splits} parts cannot give a score over {classes} classes; take more than "
            f"{classes * max(splits, 1)} images, or fewer splits"
        )
    scores = []
    for part in np.array_split(probabilities, splits):
        marginal = part.mean(axis=0, keepdims=True)
        logs = np.log(np.maximum(part, 1e-16)) - np.log(np.maximum(marginal, 1e-16))
        scores.append(float(np.exp((part * logs).sum(axis=1).mean())))
    return float(np.mean(scores))


def score_frechet(images: Images, originals: Images, *, extractor: FeatureExtractor) -> SetScore:
    """Frechet distance of generated images to real ones; "FID" on the published Inception only."""
    made, real = extractor(images), extractor(originals)
    value = frechet_distance(made.features, real.features)
    name = "FID" if extractor.is_published_inception else "Frechet distance"
    return SetScore(name, value, made.n_images, real.n_images, extractor.describe())


def score_kernel(images: Images, originals: Images, *, extractor: FeatureExtractor) -> SetScore:
    """Kernel distance of generated images to real ones; "KID" on the published Inception only."""
    made, real = extractor(images), extractor(originals)
    value = kernel_distance(made.features, real.features)
    name = "KID" if extractor.is_published_inception else "kernel distance"
    return SetScore(name, value, made.n_images, real.n_images, extractor.describe())


def score_inception(images: Images, *, extractor: FeatureExtractor, splits: int = 10) -> SetScore:
    """Score of generated images by an extractor's classes; "IS" on the published Inception only."""
    made = extractor(images)
    value = inception_score(made.probabilities, splits=splits)
    name = "IS" if extractor.is_published_inception else "class score"
    return SetScore(name, value, made.n_images, None, extractor.describe() | {"splits": splits})


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"features of shapes {a.shape} and {b.shape} cannot be compared; give [N, D] and [M, D]")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("some features are not finite; are the images whole?")
    return a, b


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _values(key: str, score: Callable[..., SetScore]) -> Callable[..., dict[str, float]]:
    """The function of a catalog row: ``score`` with an extractor by its name, its value under a fixed key."""

    def scored(*sets: Any, extractor: Any = "efficientnet-lite0", **options: Any) -> dict[str, float]:
        from vislex.metrics.image_features import load_extractor

        opened = load_extractor(extractor) if isinstance(extractor, str) else extractor
        return {key: score(*sets, extractor=opened, **options).value}

    return scored


FRECHET = Scorer(
    "frechet-distance@1",
    ("Frechet distance",),
    ("images", "originals"),
    _values("Frechet distance", score_frechet),
)
KERNEL = Scorer(
    "kernel-distance@1", ("kernel distance",), ("images", "originals"), _values("kernel distance", score_kernel)
)
INCEPTION = Scorer("inception-score@1", ("class score",), ("images",), _values("class score", score_inception))
