"""Factor accuracy: what was read from an image, held against the true factors of its scene.

Objects that were read are matched with the true ones first (same concept, then same position, then same size, then
the nearest centre), and every factor of an object is a share of the true objects: one that was not found counts as
wrong. So a value of one image lies in [0, 1], and values of two arms can be paired image by image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vislex.errors import DataError
from vislex.metrics.base import Scorer

__all__ = ["FACTORS", "FACTOR_ACCURACY", "TOLERANCES", "match_objects", "score_factors", "score_factors_per_image"]

# Factor -> how often captions name it (vislex.data.openmoji.scenes).
FACTORS: dict[str, str] = {
    "concept": "always",
    "position": "sometimes",
    "size": "sometimes",
    "background": "sometimes",
    "count": "sometimes",
    "artist": "never",
    "rotation": "never",
    "hue": "never",
    "offset": "never",
    "scale": "never",
    "shade": "never",
}
# Largest error at which a measured factor counts as right: about a third of what the suite draws it from.
TOLERANCES: dict[str, float] = {
    "rotation": 10.0,  # degrees of +-30
    "hue": 6.0,  # degrees of +-18
    "offset": 0.02,  # of the image's side, along either axis
    "scale": 0.025,  # of the true scale, drawn from +-7 %
    "shade": 4.0,  # of 255, in the mean over the three channels' errors
}
_NAMES = ("concept", "position", "size", "artist")


def score_factors(readings: Sequence[Mapping[str, Any]], factors: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over images of ``score_factors_per_image``."""
    return {name: float(values.mean()) for name, values in score_factors_per_image(readings, factors).items()}


def score_factors_per_image(
    readings: Sequence[Mapping[str, Any]], factors: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Accuracy of every factor, image by image.

    Args:
        readings: What was read, records as ``Scene.factors`` gives them.
        factors: The true records, in the same order.

    Returns:
        For each of ``FACTORS`` float64[N] in [0, 1].

    Raises:
        DataError: If there is nothing to score, or the numbers of records differ.
    """
    if not factors or len(readings) != len(factors):
        raise DataError(f"{len(readings)} readings and {len(factors)} factor records; give one reading an image")
    rows = [_score(read, true) for read, true in zip(readings, factors, strict=True)]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in FACTORS}


def match_objects(
    read: Sequence[Mapping[str, Any]], true: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pairs of a read and a true object, as many as the shorter list holds, with the largest agreement in all.

    Scenes hold at most four objects, so that all assignments are tried.
    """
    agreement = [[_agreement(a, b) for b in true] for a in read]
    if len(read) <= len(true):
        ways = (list(enumerate(places)) for places in itertools.permutations(range(len(true)), len(read)))
    else:
        ways = (
            [(a, b) for b, a in enumerate(places)] for places in itertools.permutations(range(len(read)), len(true))
        )
    best = max(ways, key=lambda pairs: sum(agreement[a][b] for a, b in pairs))
    return [(read[a], true[b]) for a, b in best]


def _agreement(read: Mapping[str, Any], true: Mapping[str, Any]) -> float:
    same = [float(read[name] == true[name]) for name in ("concept", "position", "size")]
    distance = math.hypot(read["x"] - true["x"], read["y"] - true["y"])
    return 8 * same[0] + 4 * same[1] + 2 * same[2] - min(distance, 1.0)


def _score(read: Mapping[str, Any], true: Mapping[str, Any]) -> dict[str, float]:
    pairs = match_objects(read["objects"], true["objects"])
    n = len(true["objects"])
    shade = np.abs(np.subtract(read["background_rgb"], true["background_rgb"])).mean()
    scores = {
        "background": float(read["background"] == true["background"]),
        "count": float(len(read["objects"]) == n),
        "shade": float(shade <= TOLERANCES["shade"]),
    }
    for name in _NAMES:
        scores[name] = sum(a[name] == b[name] for a, b in pairs) / n
    errors = [_errors(a, b) for a, b in pairs]
    for name in ("rotation", "hue", "offset", "scale"):
        scores[name] = sum(error[name] <= TOLERANCES[name] for error in errors) / n
    return scores


def _errors(read: Mapping[str, Any], true: Mapping[str, Any]) -> dict[str, float]:
    return {
        "rotation": abs(read["rotation"] - true["rotation"]),
        "hue": abs(read["hue"] - true["hue"]),
        "offset": max(abs(read["x"] - true["x"]), abs(read["y"] - true["y"])),
        "scale": abs(read["scale"] / true["scale"] - 1),
    }


FACTOR_ACCURACY = Scorer("factor-accuracy@1", tuple(FACTORS), ("readings", "factors"), score_factors)
