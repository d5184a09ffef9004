"""Scores of predicted masks: cIoU, mIoU (LISA's gIoU), precision at thresholds, and how many answers were no mask.

cIoU = sum of intersections / sum of unions weighs large objects; mIoU is the mean over expressions. They are different
numbers and never stand in one column. Masks are compared at the original resolution; sums are int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vislex.errors import DataError
from vislex.metrics.base import Scorer

__all__ = ["MASKS", "THRESHOLDS", "average_masks", "score_masks", "score_masks_per_image"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def score_masks(predicted: Sequence[np.ndarray | None], target: Sequence[np.ndarray]) -> dict[str, float]:
    """Scores one mask an expression.

    Args:
        predicted: bool[H, W] each, or None where the answer was no mask: it scores an IoU of 0.
        target: bool[H, W] each, of the same sizes; may be empty, and an empty prediction is then right.

    Returns:
        "cIoU", "mIoU", "P@0.5" to "P@0.9" (share of IoUs of at least that) and "invalid" (share of None), in [0, 1].

    Raises:
        DataError: If there is nothing to score, the numbers or sizes differ, or a mask is none.
    """
    return average_masks(score_masks_per_image(predicted, target))


def average_masks(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The scores of ``score_masks`` from what ``score_masks_per_image`` counts, of all images together."""
    iou, union = counts["IoU"], int(counts["union"].sum())
    both_empty = 1.0 if not counts["invalid"].any() else 0.0
    scores = {"cIoU": int(counts["intersection"].sum()) / union if union else both_empty, "mIoU": float(iou.mean())}
    scores |= {f"P@{threshold:g}": float((iou >= threshold).mean()) for threshold in THRESHOLDS}
    return scores | {"invalid": float(counts["invalid"].mean())}


def score_masks_per_image(
    predicted: Sequence[np.ndarray | None], target: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """What the bootstrap resamples.

    Args:
        predicted: As for ``score_masks``.
        target: As for ``score_masks``.

    Returns:
        "intersection" int64[N], "union" int64[N], "IoU" float64[N], "invalid" bool[N].

    Raises:
        DataError: As ``score_masks``.
    """
    if len(predicted) != len(target):
        raise DataError(f"there are {len(predicted)} predicted masks and {len(target)} targets; give one each")
    if not len(target):
        raise DataError("there are no masks to score; pass one predicted mask and one target an expression")
    intersection, union = np.zeros(len(target), dtype=np.int64), np.zeros(len(target), dtype=np.int64)
    invalid = np.array([mask is None for mask in predicted])
    for i, (found, truth) in enumerate(zip(predicted, target, strict=True)):
        right = _mask(truth, f"target {i}")
        given = np.zeros_like(right) if found is None else _mask(found, f"predicted mask {i}")
        if given.shape != right.shape:
            raise DataError(
                f"predicted mask {i} is {given.shape[0]} x {given.shape[1]}, its target {right.shape[0]} x "
                f"{right.shape[1]}; predict at the image's own resolution"
            )
        intersection[i] = np.count_nonzero(given & right)
        union[i] = np.count_nonzero(given | right)
    iou = np.divide(intersection, union, out=np.ones(len(target)), where=union > 0)
    iou[invalid] = 0.0
    return {"intersection": intersection, "union": union, "IoU": iou, "invalid": invalid}


def _mask(mask: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise DataError(f"{what} is {array.dtype}{list(array.shape)}; a mask is bool[H, W]")
    return array.astype(bool)


MASKS = Scorer(
    "masks@1",
    ("cIoU", "mIoU", *(f"P@{threshold:g}" for threshold in THRESHOLDS), "invalid"),
    ("predicted", "target"),
    score_masks,
)
