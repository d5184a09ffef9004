"""The comparison of trainings on tiny models: both sides take the same steps, and the result file says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vislex.benchmarks.training_throughput import main


def test_both_sides_take_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "result.json"
    main(["--smoke", "--runs", "2", "--steps", "10", "--precision", "fp32", "--out", str(out), "--json"])
    rows = json.loads(out.read_text())["rows"]
    assert [row["recipe"] for row in rows] == ["sft", "vilex_pretrain"]
    for row in rows:
        assert row["largest_loss_difference"] < 1e-3
        assert len(row["seconds"]) == len(row["bare_seconds"]) == 2
        assert row["samples_per_second"] == pytest.approx(9 * 4 / (sum(row["seconds"]) / 2))
        assert row["ratio"]["low"] <= row["ratio"]["ratio"] <= row["ratio"]["high"]
