"""Factor accuracy against cases worked out by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from vislex.data.openmoji.scenes import sample_scene
from vislex.errors import DataError
from vislex.metrics.factors import FACTORS, match_objects, score_factors, score_factors_per_image
from vislex.registry import registry


def scene(n_objects: int) -> dict[str, Any]:
    scenes = (sample_scene(0, "val", "core", index) for index in range(100))
    return next(s.factors() for s in scenes if len({item.concept for item in s.items}) == len(s.items) == n_objects)


def test_the_true_record_scores_one_in_every_factor() -> None:
    factors = [scene(n) for n in (1, 2, 3, 4)]
    assert score_factors(factors, factors) == dict.fromkeys(FACTORS, 1.0)
    assert registry("scorers").get("factor-accuracy@1").load()(factors, factors) == dict.fromkeys(FACTORS, 1.0)


@pytest.mark.parametrize(
    ("factor", "right", "wrong"),
    [
        ("rotation", 9.9, 10.1),
        ("hue", -5.9, -6.1),
        ("x", 0.019, 0.021),
        ("y", -0.019, -0.021),
        ("scale", 0.008, 0.03),
    ],
)
def test_measured_factors_count_within_their_tolerance(factor: str, right: float, wrong: float) -> None:
    true = scene(1)
    for shift, expected in ((right, 1.0), (wrong, 0.0)):
        read = copy.deepcopy(true)
        read["objects"][0][factor] += shift
        scores = score_factors([read], [true])
        named = "offset" if factor in ("x", "y") else factor
        assert {name for name, value in scores.items() if value < 1} == (set() if expected else {named})


@pytest.mark.parametrize("factor", ["concept", "position", "size", "artist"])
def test_one_wrong_name_of_two_objects_is_half(factor: str) -> None:
    true = scene(2)
    read = copy.deepcopy(true)
    read["objects"].reverse()  # the order says nothing
    read["objects"][0][factor] = "?"
    scores = score_factors([read], [true])
    assert {name: value for name, value in scores.items() if value < 1} == {factor: 0.5}


def test_the_image_has_factors_of_its_own() -> None:
    true = scene(2)
    read = copy.deepcopy(true) | {"background": "?", "background_rgb": [c + 5 for c in true["background_rgb"]]}
    assert {name for name, value in score_factors([read], [true]).items() if value == 0} == {"background", "shade"}
    read["background_rgb"] = [c + 3 for c in true["background_rgb"]]
    assert score_factors([read], [true])["shade"] == 1


def test_objects_that_were_not_found_are_wrong_and_too_many_only_miscount() -> None:
    true = scene(2)
    missing = {**true, "objects": true["objects"][:1]}
    scores = score_factors([missing], [true])
    assert (scores["concept"], scores["rotation"], scores["count"], scores["background"]) == (0.5, 0.5, 0.0, 1.0)
    scores = score_factors([true], [missing])
    assert (scores["concept"], scores["count"]) == (1.0, 0.0)


def test_concepts_are_matched_before_places() -> None:
    true = [{"concept": name, "position": place, "size": "small", "x": x, "y": 0.5}
            for name, place, x in (("cat", "left", 0.2), ("dog", "right", 0.8))]  # fmt: skip
    swapped = [{**true[0], "concept": "dog"}, {**true[1], "concept": "cat"}]
    assert [(a["concept"], b["concept"]) for a, b in match_objects(swapped, true)] == [("dog", "dog"), ("cat", "cat")]
    strange = [{**true[0], "concept": "?"}]
    assert match_objects(strange, true) == [(strange[0], true[0])]


def test_scores_are_image_by_image_and_counts_must_agree() -> None:
    factors = [scene(1), scene(2)]
    scores = score_factors_per_image([factors[0], {**factors[1], "background": "?"}], factors)
    assert np.array_equal(scores["background"], [1.0, 0.0])
    for readings, records in (([], []), (factors[:1], factors)):
        with pytest.raises(DataError, match="give one reading an image"):
            score_factors(readings, records)
