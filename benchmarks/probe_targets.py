"""What probes are asked: the factors of the suite's scenes as classes.

Factors of an object are asked of scenes with one object, those of the image of all. Measured factors are drawn evenly
from known ranges, which are cut into five classes each; an exact place is measured from where its named position and
its scale would put it, so that it says nothing about the position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vislex.data.openmoji.lexicon import BACKGROUNDS as COLOURS
from vislex.data.openmoji.lexicon import CELLS
from vislex.data.openmoji.lexicon import SIZES as SCALES
from vislex.data.openmoji.scenes import MAX_HUE_SHIFT, MAX_ROTATION
from vislex.errors import DataError
from vislex.metrics.factors import FACTORS
from vislex.metrics.reader_targets import ARTISTS, BACKGROUNDS, POSITIONS, SIZES

__all__ = ["N_BINS", "TIERS", "class_counts", "factor_labels"]

N_BINS = 5
_ASKED = (
    "concept", "position", "size", "background", "count", "artist", "rotation", "hue", "offset x", "offset y", "scale",
    "shade",
)  # fmt: skip
# Factor -> how often captions name it.
TIERS: dict[str, str] = {name: FACTORS[name.partition(" ")[0]] for name in _ASKED}
_CENTRED, _BORDER, _SCALE, _SHADE = (-0.04, 0.04), (0.01, 0.06), (0.93, 1.07), (-10.0, 10.0)  # ranges of the scenes
_REACH = 0.54  # of the scale: from a border to the centre of a drawing that touches it


def class_counts(concepts: Sequence[str]) -> dict[str, int]:
    """Number of classes of every factor."""
    named = {"concept": len(concepts), "position": len(POSITIONS), "size": len(SIZES), "background": len(BACKGROUNDS)}
    return {name: named.get(name, {"count": 4, "artist": len(ARTISTS)}.get(name, N_BINS)) for name in TIERS}


def factor_labels(factors: Sequence[Mapping[str, Any]], concepts: Sequence[str]) -> dict[str, np.ndarray]:
    """Classes of every factor.

    Args:
        factors: Records as ``Scene.factors`` gives them.
        concepts: Names in the order of their classes.

    Returns:
        int64[N] a factor, -1 where it is not asked.

    Raises:
        DataError: If no scene has a single object.
    """
    labels = {name: np.full(len(factors), -1, dtype=np.int64) for name in TIERS}
    for i, record in enumerate(factors):
        for name, value in _labels(record, concepts).items():
            labels[name][i] = value
    if not (labels["concept"] >= 0).any():
        raise DataError(f"none of {len(factors)} scenes has a single object; probe more images (size=, train_size=)")
    return labels


def _labels(record: Mapping[str, Any], concepts: Sequence[str]) -> dict[str, int]:
    nominal = COLOURS[record["background"]]
    found = {
        "background": BACKGROUNDS.index(record["background"]),
        "count": len(record["objects"]) - 1,
        "shade": _bin(float(np.subtract(record["background_rgb"], nominal).mean()), *_SHADE),
    }
    if len(record["objects"]) > 1:
        return found
    item = record["objects"][0]
    column, row = CELLS[item["position"]]
    return found | {
        "concept": concepts.index(item["concept"]),
        "position": POSITIONS.index(item["position"]),
        "size": SIZES.index(item["size"]),
        "artist": ARTISTS.index(item["artist"]),
        "rotation": _bin(item["rotation"], -MAX_ROTATION, MAX_ROTATION),
        "hue": _bin(item["hue"], -MAX_HUE_SHIFT, MAX_HUE_SHIFT),
        "offset x": _offset(item["x"], column, item["scale"]),
        "offset y": _offset(item["y"], row, item["scale"]),
        "scale": _bin(item["scale"] / SCALES[item["size"]], *_SCALE),
    }


def _offset(centre: float, side: int, scale: float) -> int:
    """Class of the distance from the middle, or of the gap between a drawing and its border."""
    if side == 0:
        return _bin(centre - 0.5, *_CENTRED)
    return _bin((centre if side < 0 else 1 - centre) - _REACH * scale, *_BORDER)


def _bin(value: float, low: float, high: float) -> int:
    return int(np.clip((value - low) / (high - low) * N_BINS, 0, N_BINS - 1))
