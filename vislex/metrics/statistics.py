"""Intervals for fair comparisons: a paired bootstrap over seeds and images, a verdict, and an exact binomial interval.

Two arms are scored on the same images, with the same seeds of the downstream training; what is resampled is the
*difference*. Seeds and images are crossed, so each replicate draws seeds and, independently, images that all seeds
share. Few seeds would make a plain bootstrap too narrow (by sqrt((S - 1) / S)); seed deviations are widened for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from vislex.errors import DataError
from vislex.metrics.captions import MAX_N, bleu_from_statistics

__all__ = [
    "PairedInterval",
    "RatioInterval",
    "bootstrap_bleu",
    "exact_binomial_interval",
    "paired_bootstrap",
    "paired_ratio",
    "verdict",
]

POWER = 0.8
CELLS = 8_000_000  # resampled counts held in memory at a time

Verdict = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True)
class PairedInterval:
    """The difference ``a - b`` with its bootstrap interval.

    Attributes:
        difference: Of the scores of all seeds and images.
        low: Lower end of the percentile interval.
        high: Upper end.
        p_worse: Share of the replicates in which ``a`` scores below ``b`` (ties count half).
        n: Number of images.
        n_seeds: Number of seeds.
        minimal_detectable_effect: Smallest true difference that an interval of this confidence would show to exclude 0
            in four runs out of five (power 0.8), from the spread of the replicates.
        confidence: Of the interval.
        n_resamples: Number of replicates.
    """

    difference: float
    low: float
    high: float
    p_worse: float
    n: int
    n_seeds: int
    minimal_detectable_effect: float
    confidence: float = 0.95
    n_resamples: int = 1000

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RatioInterval:
    """The quotient ``a / b`` of two mean scores with its bootstrap interval.

    Attributes:
        ratio: Of the scores of all images, mean over seeds.
        low: Lower end of the percentile interval.
        high: Upper end.
        n: Number of images.
        n_seeds: Number of seeds.
        confidence: Of the interval.
        n_resamples: Number of replicates.
    """

    ratio: float
    low: float
    high: float
    n: int
    n_seeds: int
    confidence: float = 0.95
    n_resamples: int = 1000

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
) -> PairedInterval:
    """Interval of the difference of two arms by hierarchical resampling of seeds x images.

    Args:
        a: float[S, N] or float[N], a score for each seed and image; with ``statistic`` float[S, N, K] or float[N, K].
        b: As ``a``, for the same seeds and images in the same order.
        n_resamples: Replicates.
        seed: Of the resampling; the same seed draws the same images for any arms of one shape.
        confidence: Of the interval, in (0, 1).
        statistic: For scores that are no mean over images: maps sums over images (float[..., K]) to scores
            (float[...]), such as ``lambda sums: bleu_from_statistics(sums)[..., 3]``. None takes the mean.

    Returns:
        The interval of ``score(a) - score(b)``.

    Raises:
        DataError: If the arms differ in shape, or hold no image, or values that are not finite.
    """
    arms = _paired(a, b, has_values=statistic is not None)
    n_seeds, n_images, _ = arms[0].shape
    score = statistic or (lambda sums: sums[..., 0] / n_images)
    observed, resampled = _replicates(arms, score, np.subtract, n_resamples=n_resamples, seed=seed)
    tail, (low, high) = _ends(resampled, confidence)
    normal = NormalDist()
    effect = (normal.inv_cdf(1 - tail) + normal.inv_cdf(POWER)) * float(resampled.std())
    return PairedInterval(
        difference=observed,
        low=low,
        high=high,
        p_worse=float((resampled < 0).mean() + (resampled == 0).mean() / 2),
        n=n_images,
        n_seeds=n_seeds,
        minimal_detectable_effect=effect,
        confidence=confidence,
        n_resamples=n_resamples,
    )


def paired_ratio(
    a: np.ndarray, b: np.ndarray, *, n_resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> RatioInterval:
    """Interval of the quotient of two arms' mean scores, resampled as in ``paired_bootstrap``.

    Args:
        a: float[S, N] or float[N], a score for each seed and image.
        b: As ``a``, for the same seeds and images in the same order.
        n_resamples: Replicates.
        seed: Of the resampling.
        confidence: Of the interval, in (0, 1).

    Raises:
        DataError: As ``paired_bootstrap``, or if the mean of ``b`` is zero or negative in some replicate: the quotient
            says nothing then.
    """
    arms = _paired(a, b, has_values=False)
    n_seeds, n_images, _ = arms[0].shape
    with np.errstate(divide="ignore", invalid="ignore"):
        observed, resampled = _replicates(
            arms, lambda sums: sums[..., 0], _quotient, n_resamples=n_resamples, seed=seed
        )
    if not (math.isfinite(observed) and np.isfinite(resampled).all()):
        raise DataError(
            f"the second arm's mean score is {float(arms[1].mean()):.4g} and zero in some replicates: no quotient; "
            "compare differences, or take more images"
        )
    _, (low, high) = _ends(resampled, confidence)
    return RatioInterval(observed, low, high, n_images, n_seeds, confidence, n_resamples)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b > 0, a / b, np.nan)


def _ends(resampled: np.ndarray, confidence: float) -> tuple[float, tuple[float, float]]:
    """Share of the replicates in each tail, and the ends of the percentile interval."""
    if not 0 < confidence < 1:
        raise DataError(f"confidence {confidence} must be between 0 and 1")
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return tail, (float(low), float(high))


def _paired(a: np.ndarray, b: np.ndarray, *, has_values: bool) -> tuple[np.ndarray, np.ndarray]:
    first, second = (_seeds_images_values(arm, has_values) for arm in (a, b))
    if first.shape != second.shape:
        raise DataError(
            f"the arms have shapes {np.shape(a)} and {np.shape(b)}; a paired comparison needs the same seeds and images"
        )
    return first, second


def _replicates(
    arms: tuple[np.ndarray, np.ndarray],
    score: Callable[[np.ndarray], np.ndarray],
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    n_resamples: int,
    seed: int,
) -> tuple[float, np.ndarray]:
    """``compare`` of the arms' scores: as observed, and float[R] of the replicates of seeds and images."""
    if n_resamples < 1:
        raise DataError(f"n_resamples {n_resamples} must be at least 1")
    n_seeds, n_images, _ = arms[0].shape

    def compared(weights: np.ndarray) -> np.ndarray:
        """For each replicate and seed, float[R, S], of the images' weights float[R, N]."""
        sums = (np.einsum("rn,snk->rsk", weights, arm, optimize=True) for arm in arms)
        of_a, of_b = (np.asarray(score(total), dtype=np.float64) for total in sums)
        return compare(of_a, of_b)

    observed = float(compared(np.ones((1, n_images))).mean())
    image_draws, seed_draws = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    drawn = seed_draws.integers(n_seeds, size=(n_resamples, n_seeds))
    replicates = []
    step = max(1, CELLS // n_images)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        weights = image_draws.multinomial(n_images, np.full(n_images, 1 / n_images), size=size).astype(np.float64)
        by_seed = compared(weights)
        if n_seeds > 1:
            centre = by_seed.mean(axis=1, keepdims=True)
            by_seed = centre + (by_seed - centre) * math.sqrt(n_seeds / (n_seeds - 1))
            by_seed = np.take_along_axis(by_seed, drawn[start : start + size], axis=1)
        replicates.append(by_seed.mean(axis=1))
    return observed, np.concatenate(replicates)


def bootstrap_bleu(
    a: np.ndarray,
    b: np.ndarray,
    *,
    n: int = 4,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedInterval:
    """``paired_bootstrap`` of BLEU-n, a corpus score, from its resampled sufficient statistics.

    Args:
        a: int[S, N, 10] or int[N, 10], "BLEU-statistics" of ``score_captions_per_image``.
        b: As ``a``, for the same images.
        n: 1 to 4.
        n_resamples: Replicates.
        seed: Of the resampling.
        confidence: Of the interval.

    Raises:
        DataError: If ``n`` is not 1 to 4, or the arms do not pair.
    """
    if not 1 <= n <= MAX_N:
        raise DataError(f"BLEU-{n} is not computed; n is 1 to {MAX_N}")
    return paired_bootstrap(
        a,
        b,
        n_resamples=n_resamples,
        seed=seed,
        confidence=confidence,
        statistic=lambda sums: bleu_from_statistics(sums)[..., n - 1],
    )


def verdict(interval: PairedInterval, margin: float = 0.0) -> Verdict:
    """Whether the claim "the difference exceeds ``margin``" stands; the margin is written down before the run.

    Args:
        interval: Of ``paired_bootstrap``.
        margin: In the units of the score. Negative for "no worse by more than".

    Returns:
        "holds" if the whole interval lies above the margin, "does not hold" if it lies below, else "inconclusive".
    """
    if interval.low > margin:
        return "holds"
    return "does not hold" if interval.high < margin else "inconclusive"


def exact_binomial_interval(wins: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a win rate.

    Args:
        wins: Number of wins.
        n: Number of trials; ties are left out or split by the caller.
        confidence: Of the interval, in (0, 1).

    Returns:
        Lower and upper end in [0, 1]; (0, 1) without trials.

    Raises:
        DataError: If ``wins`` is not between 0 and ``n`` or the confidence not between 0 and 1.
    """
    if not 0 <= wins <= n:
        raise DataError(f"{wins} wins of {n} trials; wins must lie between 0 and the number of trials")
    if not 0 < confidence < 1:
        raise DataError(f"confidence {confidence} must lie between 0 and 1")
    tail = (1 - confidence) / 2
    low = 0.0 if wins == 0 else _bisect(lambda p: _upper_tail(wins, n, p) < tail)
    high = 1.0 if wins == n else _bisect(lambda p: 1 - _upper_tail(wins + 1, n, p) > tail)
    return low, high


def _upper_tail(least: int, n: int, p: float) -> float:
    """P(X >= least) for X ~ Binomial(n, p)."""
    if p <= 0 or p >= 1:
        return float(p >= 1)
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)
    return math.fsum(
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        for k in range(least, n + 1)
    )


def _bisect(is_below: Callable[[float], bool]) -> float:
    """The point of [0, 1] where a predicate that starts true turns false."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def _seeds_images_values(arm: np.ndarray, has_values: bool) -> np.ndarray:
    """float64[S, N, K] of any allowed shape."""
    values = np.asarray(arm, dtype=np.float64)
    if not has_values:
        values = values[..., None]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(f"scores of shape {np.shape(arm)} cannot be resampled; allowed are [seeds, images] or [images]")
    if not np.isfinite(values).all():
        raise DataError("the scores hold values that are not finite; every image needs a score in both arms")
    return values
