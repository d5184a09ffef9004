"""Mask scores against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from vislex.errors import DataError
from vislex.metrics.masks import MASKS, THRESHOLDS, score_masks, score_masks_per_image
from vislex.registry import registry


def rows(*spans: tuple[int, int]) -> list[np.ndarray]:
    """Masks 1 x 100 that are true from the first to before the second number."""
    masks = []
    for start, stop in spans:
        mask = np.zeros((1, 100), dtype=bool)
        mask[0, start:stop] = True
        masks.append(mask)
    return masks


def test_scores_by_hand() -> None:
    target = rows((0, 10), (0, 100), (0, 10), (0, 0))
    predicted = [*rows((0, 10), (0, 60)), None, *rows((0, 0))]  # IoU 1, 0.6, 0 (invalid), 1 (both empty)
    scores = score_masks(predicted, target)
    assert scores["cIoU"] == pytest.approx((10 + 60) / (10 + 100 + 10))
    assert scores["mIoU"] == pytest.approx(2.6 / 4)
    assert [scores[f"P@{t:g}"] for t in THRESHOLDS] == [0.75, 0.75, 0.5, 0.5, 0.5]
    assert scores["invalid"] == 0.25
    assert list(scores) == list(MASKS.keys)
    assert registry("scorers").get("masks@1").load() is MASKS


def test_what_the_bootstrap_resamples() -> None:
    counts = score_masks_per_image([None, *rows((5, 15))], rows((0, 0), (0, 10)))
    assert counts["intersection"].dtype == counts["union"].dtype == np.int64
    assert counts["IoU"].tolist() == pytest.approx([0.0, 5 / 15])  # an invalid answer is wrong, where nothing is, too
    assert counts["invalid"].tolist() == [True, False]


def test_nothing_but_empty_masks() -> None:
    assert score_masks(rows((0, 0)), rows((0, 0)))["cIoU"] == 1.0
    assert score_masks([None], rows((0, 0)))["cIoU"] == 0.0


@pytest.mark.parametrize(
    ("predicted", "target", "reason"),
    [
        ([], [], "no masks to score"),
        ([None], [], "1 predicted masks and 0 targets"),
        ([np.zeros((2, 2), bool)], [np.zeros((2, 3), bool)], "predicted mask 0 is 2 x 2, its target 2 x 3"),
        ([np.zeros((2, 2))], [np.zeros((2, 2), bool)], "predicted mask 0 is float64"),
        ([None], [np.zeros(4, bool)], "target 0 is bool"),
    ],
)
def test_what_cannot_be_scored_is_told(predicted: list, target: list, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        score_masks(predicted, target)
