"""Crossing points of made-up times, and a real measurement of tiny decoders that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vislex.benchmarks import ladic_latency
from vislex.benchmarks.crossing import crossing, crossings
from vislex.benchmarks.ladic_latency import Scale, build, main, measure

TINY = Scale(64, 1, 40, 5, 16, 64, 1)


def test_the_crossing_point_lies_between_the_lengths_where_the_order_changes() -> None:
    lengths = np.array([8.0, 16.0, 24.0])
    assert crossing(lengths, np.array([1.0, 2.0, 3.0]), np.full(3, 1.5)) == 12
    assert crossing(lengths, np.array([1.0, 2.0, 3.0]), np.full(3, 0.5)) == -np.inf
    assert crossing(lengths, np.array([1.0, 2.0, 3.0]), np.full(3, 9.0)) == np.inf
    assert crossing(lengths, np.array([2.0, 1.0, 3.0]), np.full(3, 1.5)) == 18  # it has to stay faster


def test_the_rival_is_the_faster_loop_and_the_interval_covers_the_point() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for length in (8, 16, 24):
        noise = rng.normal(0, 0.02, (3, 30))
        times = {
            "generate": (0.2 * length + noise[0]).tolist(),
            "greedy": (0.1 * length + noise[1]).tolist(),
            "ladic 8": (1.2 + noise[2]).tolist(),
        }
        rows.append({"scale": "s", "dtype": "d", "threads": 1, "batch size": 1, "length": length, "wall": times})
    found = {row["case"].split(", ")[-1]: row for row in crossings(rows)}
    assert set(found) == {"bucketed", "fixed 24"}
    assert found["bucketed"]["crossing"] == pytest.approx(12, abs=0.4)
    assert found["bucketed"]["low"] <= found["bucketed"]["crossing"] <= found["bucketed"]["high"]
    assert found["bucketed"]["high"] - found["bucketed"]["low"] < 1
    assert found["bucketed"]["text"].startswith("faster than the faster autoregressive loop from 1")


@torch.no_grad()
def test_all_contenders_do_the_work_that_their_names_say() -> None:
    decoders = build(TINY)
    vision = torch.randn(2, 5, 16)
    row = measure(decoders, vision, 6, evaluations=[2, 4], runs=2)
    assert row is not None
    assert list(row["wall"]) == ["generate", "greedy", "ladic 2", "ladic 2 guided", "ladic 4", "ladic 4 guided"]
    assert row["evaluations"] == dict(zip(row["wall"], [6, 6, 2, 2, 4, 4], strict=True))
    assert all(len(times) == 2 for clock in ("wall", "cpu") for times in row[clock].values())
    sides = ladic_latency.contenders(*decoders, vision, 6, [2])
    assert torch.equal(sides["generate"](), sides["greedy"]())
    assert measure(decoders, vision, 6, evaluations=[2], longest=0.0) is None


def test_the_command_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(ladic_latency.SCALES, "small", TINY)
    out = tmp_path / "latency.json"
    shared = ["--scales", "small", "--batch-sizes", "1", "--evaluations", "2", "--runs", "5", "--out", str(out)]
    main([*shared, "--lengths", "8"])
    first = json.loads(out.read_text())["rows"]
    main([*shared, "--lengths", "8,24", "--clock", "cpu"])
    content = json.loads(out.read_text())
    assert content["rows"][0] == first[0]
    assert [row["length"] for row in content["rows"]] == [8, 24]
    assert {row["case"].split(", ")[-1] for row in content["crossings"]["cpu"]} == {"bucketed", "fixed 24"}
    assert (tmp_path / "latency.png").stat().st_size > 1000
    assert "</svg>" in (tmp_path / "latency.svg").read_text()
    assert "the faster autoregressive loop" in capsys.readouterr().out
