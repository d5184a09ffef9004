"""What holds LaDiC back: objects that captions name, differences to the base, and the whole at smoke size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vislex.benchmarks.cause_arms import BASE, CAUSE_ARMS, compare_with_base, object_errors
from vislex.benchmarks.ladic_causes import ALSO, JUDGED, main
from vislex.decoders.cross_attention import CrossAttentionConfig
from vislex.decoders.ladic.config import LadicConfig
from vislex.decoders.masked import MaskedConfig
from vislex.metrics.scene import named_concepts

CONFIGS = {"ladic": LadicConfig, "masked": MaskedConfig, "cross_attention": CrossAttentionConfig}


def record(*concepts: str) -> dict:
    return {"objects": [{"concept": concept} for concept in concepts]}


def test_names_are_read_in_order_and_as_often_as_they_stand() -> None:
    assert named_concepts("a hot dog, a hot dog and two cats on a red background") == ["hot dog", "hot dog", "cat"]
    assert named_concepts("a quokka and a cat", ["quokka"]) == ["quokka", "cat"]


def test_repeats_are_errors_only_where_an_object_is_left_out() -> None:
    captions = {
        "both": "a cat and a dog",
        "twice": "a cat and a cat",
        "two of them": "a cat to the left of a cat",
        "wrong": "a lemon",
    }
    factors = {
        "both": record("cat", "dog"),
        "twice": record("cat", "dog"),
        "two of them": record("cat", "cat"),
        "wrong": record("cat"),
    }
    found = object_errors(captions, factors)
    assert found["all"] == {"n": 4, "precision": 4 / 5, "recall": 4 / 6, "repeats": 1 / 4}
    assert found["2"] == {"n": 2, "precision": 1.0, "recall": 3 / 4, "repeats": 1 / 2}
    assert found["1"]["repeats"] == 0


def test_each_arm_is_held_against_its_base_over_common_seeds() -> None:
    base = np.random.default_rng(0).normal(1.0, 0.1, (2, 100))
    scores = {
        BASE: dict(enumerate(base)),
        "from both": dict(enumerate(base + 0.1)),
        "dropout of 0.1": {1: base[1] - 0.1},
        "without neighbours": {7: base[0]},
        "masked diffusion": {0: base[0] + 0.5},
        "masked diffusion without the repetition bias": {0: base[0] + 0.4},
    }
    found = {pair["arm"]: pair for pair in compare_with_base(scores)}
    masked = "masked diffusion"
    assert set(found) == {"from both", "dropout of 0.1", masked, f"{masked} without the repetition bias"}
    assert {pair["base"] for pair in found.values()} == {BASE, masked}
    assert found[f"{masked} without the repetition bias"]["difference"] == pytest.approx(-0.1)
    assert found["from both"]["verdict"] == "holds"
    assert found["from both"]["seeds"] == 2
    assert found["dropout of 0.1"]["verdict"] == "does not hold"
    assert found["dropout of 0.1"]["difference"] == pytest.approx(-0.1)


def test_every_arm_differs_from_its_base_in_one_thing() -> None:
    for name, arm in CAUSE_ARMS.items():
        base = CAUSE_ARMS[arm.base]
        changes = [arm.images != base.images, arm.share != base.share, arm.decoder != base.decoder]
        for own, theirs in ((arm.options, base.options), (arm.codec, base.codec)):
            assert theirs.items() <= own.items(), name
            changes.append(own != theirs)
        assert sum(changes) == (name != BASE), name
        assert set(arm.options) <= set(vars(CONFIGS[arm.decoder]()))
    assert set(JUDGED) == set(ALSO) == {arm.decoder for arm in CAUSE_ARMS.values()}


@pytest.mark.slow
def test_it_runs_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "causes.json"
    words = ["--smoke", "--folder", str(tmp_path / "runs"), "--out", str(out)]
    main(words)
    content = json.loads(out.read_text())
    assert {pair["arm"] for pair in content["differences"]} == {"cross_attention", *CAUSE_ARMS} - {BASE}
    assert len(content["table"]) == 2 * (1 + len(CAUSE_ARMS))
    assert out.with_suffix(".png").stat().st_size > 10_000
    capsys.readouterr()
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["table"] == content["table"]
    assert json.loads(out.read_text())["rows"] == content["rows"]
