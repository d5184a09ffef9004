"""The comparison of planned with real times runs, and its verdict follows from its rows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from vislex.benchmarks import plan_time
from vislex.errors import ConfigError


@pytest.mark.slow
def test_every_configuration_is_planned_by_every_other(tmp_path: Path) -> None:
    names = ["lm_pretrain_embedded", "caption_masked_embedded"]
    out = tmp_path / "plan.json"
    plan_time.main(
        ["--smoke", "--steps", "15", "--rounds", "2", "--configs", ",".join(names), "--json", "--out", str(out)]
    )
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["config"], row["calibrated on"]) for row in found["rows"]] == [tuple(names), tuple(names[::-1])]
    for row in found["rows"]:
        assert len(row["ratios"]) == 2
        assert row["ratio"] == median(row["ratios"]) > 0
        assert row["planned"] > 0 < row["real"]
    assert found["conclusion"]["pairs"] == 2


def test_one_pair_outside_the_claim_is_enough() -> None:
    rows = [{"config": "a", "calibrated on": "b", "ratio": ratio} for ratio in (0.9, 1.1, 1.19)]
    assert plan_time.conclude(rows)["verdict"] == "holds"
    found = plan_time.conclude([*rows, {"config": "b", "calibrated on": "a", "ratio": 0.7}])
    assert (found["verdict"], found["within"], found["worst"]["ratio"]) == ("does not hold", 3, 0.7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--configs", "lm_pretrain_embeded,reader_embedded"], "lm_pretrain_embedded"),
        (["--configs", "reader_embedded"], "at least two"),
        (["--steps", "9"], "at least 15"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_time.main(words)
