"""Rows and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.results import Results
from vislex.benchmarks.summary import compare_rows, control_pairs, length_bins, summarise
from vislex.errors import DataError

A, B = "enc + prefix", "enc@untrained + prefix"


def test_rows_are_averaged_over_seeds_and_sorted(results: Results, data: CaptionData) -> None:
    rows = summarise(results, data.record)
    assert [row.name for row in rows] == [A, B, "floor: one caption for all"]
    first = rows[0]
    values = [run.scores["CIDEr-D"] for run in first.runs]
    assert first.scores["CIDEr-D"] == pytest.approx(np.mean(values))
    assert first.spread["CIDEr-D"] == pytest.approx(np.std(values, ddof=1))
    assert first.as_dict()["seeds"] == 2


def test_an_encoder_is_paired_with_its_own_control(results: Results, data: CaptionData) -> None:
    assert control_pairs(summarise(results, data.record)) == [(A, B)]


def test_paired_difference_uses_common_seeds_and_judges_only_with_a_margin(results: Results, data: CaptionData) -> None:
    pair = compare_rows(results, data.record, A, B)
    assert pair.interval.n == len(data)
    assert pair.interval.n_seeds == 2
    assert pair.interval.low < pair.interval.difference < pair.interval.high
    assert pair.mean_a - pair.mean_b == pytest.approx(pair.interval.difference)
    assert pair.excludes_zero
    assert pair.verdict is None
    assert compare_rows(results, data.record, A, B, margin=0.1).verdict == "holds"
    assert compare_rows(results, data.record, A, B, margin=5.0).verdict == "does not hold"


def test_rows_without_a_common_seed_are_averaged(results: Results, data: CaptionData) -> None:
    pair = compare_rows(results, data.record, A, "floor: one caption for all")
    assert pair.interval.n_seeds == 1
    assert pair.covers == "images (one training seed)"


def test_an_unknown_row_is_named_with_its_neighbour(results: Results, data: CaptionData) -> None:
    with pytest.raises(DataError, match="did you mean 'enc \\+ prefix'"):
        compare_rows(results, data.record, "enc + prefx", B)


def test_length_bins_hold_every_image_once() -> None:
    bins = length_bins([3, 4, 4, 5, 9, 12, 12, 30])
    assert sum(mask.sum() for _, _, mask in bins) == 8
    assert all(low <= high for low, high, _ in bins)
    assert len(length_bins([5, 5, 5])) == 1
