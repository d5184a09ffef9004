"""The verdict on LaDiC against autoregression at its edges, its tables from made-up rows, the whole at smoke size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vislex.benchmarks.against_ar_runs import AgainstARConfig
from vislex.benchmarks.against_ar_tables import by_length, choose_ways, table, verdicts
from vislex.benchmarks.contenders import CONTENDERS, ways
from vislex.benchmarks.ladic_against_ar import main
from vislex.benchmarks.noninferiority import judge_ratio, still_rises
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.trained_rows import best_of_each_seed, sweep
from vislex.errors import ConfigError

FLAT = [0.5, 0.9, 0.9]


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.9501, "holds"), (1.2, "holds"), (0.9499, "does not hold"), (0.5, "does not hold")]
)
def test_the_lower_end_of_the_quotient_decides(share: float, verdict: str) -> None:
    rival = np.linspace(0.5, 1.5, 50)[None]
    found = judge_ratio(share * rival, rival, ceiling=2.0, curve=FLAT)
    assert (found["verdict"], found["reasons"]) == (verdict, [])
    assert found["low"] == pytest.approx(share) == found["high"]


def test_an_interval_around_the_threshold_is_inconclusive() -> None:
    rng = np.random.default_rng(0)
    rival = rng.uniform(0.5, 1.5, (1, 100))
    found = judge_ratio(0.96 * rival + rng.normal(0, 0.5, (1, 100)), rival, ceiling=2.0, curve=FLAT)
    assert found["low"] < 0.95 <= found["high"]
    assert found["verdict"] == "inconclusive"


def test_what_makes_the_verdict_void() -> None:
    rival = np.full((1, 10), 0.95)
    assert judge_ratio(rival, rival, ceiling=1.0, curve=FLAT)["verdict"] == "holds"  # at 95 % of it, not above
    assert "of the ceiling" in judge_ratio(rival, rival, ceiling=0.999, curve=FLAT)["reasons"][0]
    assert not still_rises([1.0, 1.02])
    assert still_rises([1.0, 1.0201])
    assert not still_rises([2.0, 1.0])
    rising = judge_ratio(rival, rival, ceiling=None, curve=[0.5, 0.8, 0.9])
    assert (rising["verdict"], rising["ratio"]) == ("void", 1.0)
    assert "80.0, then 90.0" in rising["reasons"][0]
    assert judge_ratio(rival, rival, ceiling=None, curve=[0.5])["verdict"] == "void"
    zero = judge_ratio(rival, 0 * rival, ceiling=1.0, curve=FLAT)
    assert (zero["verdict"], zero["low"]) == ("void", None)


def training(arm: str, seed: int, curve: list[float], lr: float = 1e-3) -> dict[str, Any]:
    parameters = {"decoder_budget": 10, "decoder_frozen": 0, "encoder": 5}
    values = {"lr": lr, "steps": 8, "seconds": 1.0, "curve": curve, "val": curve[-1], "parameters": parameters}
    return {"key": f"{arm} {seed}", "kind": "training", "style": "lossy", "arm": arm, "seed": seed, **values}


def captions(arm: str, way: str, seed: int, val: float, test: list[float]) -> list[dict[str, Any]]:
    shared = {"kind": "captions", "style": "lossy", "arm": arm, "way": way, "seed": seed, "training": f"{arm} {seed}"}
    shared |= {"evaluations": 8.0}
    scores = {"CIDEr-D": float(np.mean(test)), "scene-F1": 0.5}
    return [
        {**shared, "split": "val", "scores": {"CIDEr-D": val}, "per_image": {}},
        {**shared, "split": "test_composition", "scores": scores, "per_image": {"CIDEr-D": test, "scene-F1": test}},
    ]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """LaDiC, best guided on val; an AR arm whose beam is better on test but not on val; one that trained as long."""
    timed = [
        {"words": 5, "milliseconds": 30.0, "cpu_milliseconds": 20.0, "reference words": 6.0},
        {"words": 9, "milliseconds": 50.0, "cpu_milliseconds": 40.0, "reference words": 10.0},
    ]
    cost = {"kind": "cost", "style": "lossy", "timed": timed, "captions a second": {"1": 30.0}}
    return [
        {"kind": "bound", "style": "lossy", "scores": {"CIDEr-D": 3.0}},
        *(training("ladic", seed, [0.9, 1.0 + 0.03 * seed]) for seed in (0, 1)),
        training("prefix", 0, [1.0, 1.0], lr=2e-3),
        training("prefix equal time", 0, [1.0, 1.0]),
        *(row for seed in (0, 1) for row in captions("ladic", "8 steps", seed, 0.8, [9.0] * 4)),
        *(row for seed in (0, 1) for row in captions("ladic", "8 guided steps", seed, 0.9, [0.8, 1.0, 1.2, 1.0])),
        *captions("prefix", "greedy", 0, 1.0, [1.0, 1.0, 1.2, 0.8]),
        *captions("prefix", "beam 4", 0, 0.9, [2.0, 2.0, 2.0, 2.0]),
        *captions("prefix equal time", "greedy", 0, 1.1, [2.0, 2.0, 2.4, 1.6]),
        {**cost, "arm": "ladic", "way": "8 guided steps"},
    ]


def test_arms_and_ways_are_chosen_on_val(rows: list[dict[str, Any]]) -> None:
    assert choose_ways(rows) == {"ladic": "8 guided steps", "prefix": "greedy", "prefix equal time": "greedy"}
    found = {verdict["against"]: verdict for verdict in verdicts(rows)}
    assert list(found) == ["any", "equal samples", "equal time"]
    assert found["any"]["rival"] == found["equal time"]["rival"] == "prefix equal time"
    assert found["any"]["ratio"] == pytest.approx(0.5)
    assert found["equal samples"]["CIDEr-D"] == pytest.approx([1.0, 1.0])
    assert found["equal samples"]["seeds"] == 1  # the other side has one
    # The mean curve of both seeds rises from 0.9 to 1.015.
    assert found["any"]["verdict"] == "void"
    assert "still rises" in found["any"]["reasons"][0]


def test_the_table_marks_chosen_ways_and_edges_of_the_sweep(rows: list[dict[str, Any]]) -> None:
    entries = {(entry["arm"], entry["way"]): entry for entry in table(rows, [1e-3, 2e-3, 3e-3])}
    ours = entries["ladic", "8 guided steps"]
    assert (ours["chosen"], ours["seeds"], ours["ms a caption"], ours["captions a second at 1"]) == (
        True,
        2,
        40.0,
        30.0,
    )
    assert ours["CPU ms a caption"] == 30.0
    assert ours["lr at the edge"]
    assert not entries["prefix", "greedy"]["lr at the edge"]
    assert not entries["prefix", "beam 4"]["chosen"]
    assert entries["prefix", "greedy"]["ms a caption"] is None


def test_quality_and_latency_by_length(rows: list[dict[str, Any]]) -> None:
    entries = [entry for entry in by_length(rows, np.array([5.0, 8.0, 9.0, 30.0])) if entry["arm"] == "ladic"]
    assert [(entry["from"], entry["to"], entry["n"], entry["ms"]) for entry in entries] == [
        (0, 8, 2, 30.0), (8, 12, 1, 50.0), (24, 32, 1, None),
    ]  # fmt: skip
    assert [entry["CIDEr-D"] for entry in entries] == pytest.approx([0.9, 1.2, 1.0])


def test_every_learning_rate_is_tried_with_the_first_seed_only() -> None:
    made = list(sweep(lambda seed, lr: {"seed": seed, "lr": lr, "val": -abs(lr - 2)}, [5, 6], [1.0, 2.0, 3.0]))
    assert [(row["seed"], row["lr"]) for row in made] == [(5, 1.0), (5, 2.0), (5, 3.0), (6, 2.0)]
    assert [(row["seed"], row["lr"]) for row in best_of_each_seed(made)] == [(5, 2.0), (6, 2.0)]


def test_options_reach_the_trainings() -> None:
    words = ["--hidden-size", "256", "--num-layers", "4", "--steps", "4500", "--vocabulary", "default"]
    words += ["--seeds", "0,1,2", "--styles", "lossy,dense", "--lrs", "1e-3,2e-3", "--smoke", "--no-tiny", "--json"]
    config, as_json = parse_options(AgainstARConfig, words, smoke={"steps": 4, "size": 6}, description="")
    assert as_json
    assert (config.hidden_size, config.steps, config.size, config.seeds, config.tiny) == (
        256,
        4500,
        6,
        [0, 1, 2],
        False,
    )
    made = config.caption("cross_attention", seed=2, lr=2e-3, style="dense", decoder_options={"intermediate_size": 24})
    assert made.decoder_options["hidden_size"] == 256
    assert made.decoder_options["intermediate_size"] == 24
    assert (made.max_length, made.data_options["style"], made.ema_decay) == (56, "dense", 0.998)
    assert (made.warmup_steps, made.eval_every, made.lr, made.seed) == (300, 750, 2e-3, 2)
    own = config.caption("ladic", seed=0, lr=1e-3)
    assert own.parts.others["decoder.codec"].mode == "frozen"
    assert own.encoder == made.encoder == "efficientnet-lite0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "ladicc"], "no arm 'ladicc'; did you mean 'ladic'"),
        (["--arms", "ladic distilled"], "'ladic distilled' learns from 'cross_attention'"),
        (["--arms", "prefix", "--arm", "ladic=x"], "'ladic' is not among the arms"),
        (["--arm", "ladic=x", "--styles", "lossy,dense"], "one style"),
        (["--steps", "0"], "steps"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(AgainstARConfig, words, smoke={}, description="")


def test_both_sides_are_offered_the_same() -> None:
    for side in ("ladic", "cross_attention"):
        assert any("num_candidates" in options for options in ways(CONTENDERS[side]).values())
        assert any(arm.is_student for arm in CONTENDERS.values() if arm.decoder == side)


SMOKE = ["--smoke", "--arms", "cross_attention,ladic,ladic distilled,cross_attention equal time"]


@pytest.mark.slow
def test_it_runs_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "results" / "against.json"
    shared = ["--out", str(out), "--folder", str(tmp_path / "runs")]
    main(["--smoke", "--arms", "cross_attention", *shared])
    first = json.loads(out.read_text())["rows"]
    capsys.readouterr()
    main([*SMOKE, *shared, "--json"])
    content = json.loads(out.read_text())
    assert content["rows"][: len(first)] == first
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdicts"] == content["verdicts"]
    budgets = [entry["decoder_budget"] for entry in content["parameters"]]
    assert max(budgets) <= 1.05 * min(budgets)
    by_arm = {row["arm"]: row for row in content["rows"] if row["kind"] == "training"}
    seconds = next(row["seconds"] for row in content["rows"] if row["kind"] == "step seconds")
    asked = by_arm["ladic"]["steps"] * np.mean(seconds["ladic"]) / np.mean(seconds["cross_attention"])
    assert by_arm["cross_attention equal time"]["steps"] == round(asked)
    assert by_arm["ladic distilled"]["config"]["distill_from"] == by_arm["cross_attention"]["folder"]
    assert out.with_suffix(".png").stat().st_size > 10_000

    # A second time nothing is trained, nothing measured; then a folder stands for an arm.
    main([*SMOKE, *shared])
    assert json.loads(out.read_text())["rows"] == content["rows"]
    given = ["--smoke", "--arms", "cross_attention,ladic", "--arm", f"ladic={by_arm['ladic']['folder']}", *shared]
    main(given)
    added = json.loads(out.read_text())["rows"][len(content["rows"]) :]
    assert next(row["config"].keys() for row in added if row["kind"] == "training") == {"sha256"}
    ours = [
        [r["scores"] for r in rows if r["kind"] == "captions" and r["arm"] == "ladic"]
        for rows in (added, content["rows"])
    ]
    assert ours[0] == ours[1]
