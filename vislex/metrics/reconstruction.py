"""How near a reconstruction comes to its original, image by image: PSNR, SSIM, feature cosine, retrieval.

Images are quantised to 8 bits first. Distances between whole sets are in ``vislex.metrics.distances``, what the images
show in ``vislex.metrics.factors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vislex.errors import DataError
from vislex.metrics.base import Scorer
from vislex.metrics.image_features import as_uint8, load_extractor

if TYPE_CHECKING:
    from vislex.metrics.image_features import FeatureExtractor, Features

__all__ = [
    "FEATURE_COSINE", "PSNR", "RETRIEVAL", "SSIM", "feature_cosine", "psnr", "retrieval_hits", "score_pairs", "ssim",
]  # fmt: skip

MOST_PSNR = 100.0  # decibels of two equal images, so that a mean stays finite
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(images: Sequence[Any], originals: Sequence[Any]) -> np.ndarray:
    """Peak signal-to-noise ratio in decibels over all channels, float64[N]; equal images have 100.

    Args:
        images: Reconstructions (see ``as_uint8``).
        originals: As many originals of the same sizes.

    Raises:
        DataError: If numbers or sizes differ.
    """
    errors = [np.square(a - b).mean() for a, b in _pairs(images, originals)]
    return np.array([MOST_PSNR if e == 0 else min(10 * np.log10(255.0**2 / e), MOST_PSNR) for e in errors])


def ssim(images: Sequence[Any], originals: Sequence[Any]) -> np.ndarray:
    """Structural similarity in [-1, 1], float64[N] (Wang et al. 2004: Gaussian window of 11, sigma 1.5, K 0.01, 0.03).

    Taken where the window lies wholly inside, on each of the three channels, then averaged.

    Args:
        images: Reconstructions (see ``as_uint8``).
        originals: As many originals of the same sizes.

    Raises:
        DataError: If numbers or sizes differ, or a side is below 11 pixels.
    """
    return np.array([_ssim(a, b) for a, b in _pairs(images, originals)])


def feature_cosine(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Cosine of each image's feature and its original's, float64[N].

    Args:
        images: Features float[N, D].
        originals: Features float[N, D].
    """
    cosine: np.ndarray = (_unit(images) * _unit(originals)).sum(axis=1)
    return cosine


def retrieval_hits(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Whether each image's own original is the nearest of all originals by cosine, float64[N] of 0 and 1.

    A tie with another original counts as a miss: features that do not tell images apart retrieve nothing. The mean over
    chance, 1 / N, depends on N, so that N belongs to every such number.

    Args:
        images: Features float[N, D].
        originals: Features float[N, D].
    """
    cosines = _unit(images) @ _unit(originals).T
    own = np.diag(cosines).copy()
    np.fill_diagonal(cosines, -np.inf)
    return (own > cosines.max(axis=1)).astype(np.float64)


def score_pairs(
    images: Sequence[Any],
    originals: Sequence[Any],
    *,
    extractor: FeatureExtractor | None = None,
    features: tuple[Features, Features] | None = None,
) -> dict[str, np.ndarray]:
    """All scores of pairs.

    Args:
        images: Reconstructions (see ``as_uint8``).
        originals: As many originals of the same sizes.
        extractor: What features are taken with; never the encoder under test.
        features: Those of images and originals, where they are known.

    Returns:
        "PSNR", "SSIM" and, with features, "feature cosine" and "retrieval R@1", float64[N] each.

    Raises:
        DataError: If numbers or sizes differ, or retrieval has nothing to choose from.
    """
    scores = {"PSNR": psnr(images, originals), "SSIM": ssim(images, originals)}
    if extractor is not None and features is None:
        features = extractor(images), extractor(originals)
    if features is not None:
        if features[1].n_images < 2:
            raise DataError("retrieval needs at least two originals to choose from")
        made, real = (part.features for part in features)
        scores |= {"feature cosine": feature_cosine(made, real), "retrieval R@1": retrieval_hits(made, real)}
    return scores


def _pairs(images: Sequence[Any], originals: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """float64[H, W, 3] in 0..255 of each image and its original."""
    if not len(images) or len(images) != len(originals):
        raise DataError(f"{len(images)} images and {len(originals)} originals; give one reconstruction an original")
    pairs = list(zip(as_uint8(images), as_uint8(originals), strict=True))
    for i, (image, original) in enumerate(pairs):
        if image.shape != original.shape:
            raise DataError(
                f"image {i} has {image.shape[:2]} pixels and its original {original.shape[:2]}; resize the original "
                "to what the model draws, for all arms alike"
            )
    return [(image.astype(np.float64), original.astype(np.float64)) for image, original in pairs]


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    if min(a.shape[:2]) < _WINDOW:
        raise DataError(f"SSIM takes windows of {_WINDOW} pixels, and an image has {a.shape[:2]}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return float((luminance * structure).mean())


def _blur(values: np.ndarray) -> np.ndarray:
    """Gaussian means float64[H - 10, W - 10, 3] over windows that lie wholly inside."""
    window = np.exp(-np.square(np.arange(_WINDOW) - _WINDOW // 2) / (2 * _SIGMA**2))
    window /= window.sum()
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(values, _WINDOW, axis=axis)
        values = views @ window
    return values


def _unit(features: np.ndarray) -> np.ndarray:
    unit: np.ndarray = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit


def _mean_psnr(images: Sequence[Any], originals: Sequence[Any]) -> dict[str, float]:
    return {"PSNR": float(psnr(images, originals).mean())}


def _mean_ssim(images: Sequence[Any], originals: Sequence[Any]) -> dict[str, float]:
    return {"SSIM": float(ssim(images, originals).mean())}


def _mean_features(
    images: Sequence[Any], originals: Sequence[Any], *, extractor: FeatureExtractor | str = "efficientnet-lite0"
) -> dict[str, float]:
    opened = load_extractor(extractor) if isinstance(extractor, str) else extractor
    return {name: float(values.mean()) for name, values in score_pairs(images, originals, extractor=opened).items()}


PSNR = Scorer("psnr@1", ("PSNR",), ("images", "originals"), _mean_psnr)
SSIM = Scorer("ssim@1", ("SSIM",), ("images", "originals"), _mean_ssim)
FEATURE_COSINE = Scorer("feature-cosine@1", ("feature cosine",), ("images", "originals"), _mean_features)
RETRIEVAL = Scorer("retrieval-top1@1", ("retrieval R@1",), ("images", "originals"), _mean_features)
