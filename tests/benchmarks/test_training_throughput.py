"""The comparison of trainings on tiny models: both sides take the same steps, and the result file says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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
        assert [len(run) for run in row["seconds"]] == [len(run) for run in row["bare_seconds"]] == [9, 9]
        assert row["samples_per_second"] == pytest.approx(4 / np.mean(row["seconds"]))
        assert row["ratio"]["ratio"] == pytest.approx(
            np.mean(np.mean(row["bare_seconds"], 1) / np.mean(row["seconds"], 1))
        )
        assert row["ratio"]["low"] <= row["ratio"]["ratio"] <= row["ratio"]["high"]
