"""The cost of a ViLex step beside the denoiser's: what is held is counted, and every side learns its own parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vislex.benchmarks.vilex_step import BOTH, DENOISER, POOLING, StepCostConfig, main, memory, sides


@pytest.fixture(scope="module")
def config() -> StepCostConfig:
    return StepCostConfig(batch_size=2, n_tokens=2, runs=1, depth=1, device="cpu")


def test_each_side_trains_what_it_says_and_no_other(config: StepCostConfig) -> None:
    made = sides(config)
    parts = {
        DENOISER: {"denoiser"},
        POOLING: {"pooling", "heads"},
        BOTH: {"pooling", "heads", "backbone"},
    }
    named = {}
    vilex, t2i = made[BOTH].modules
    for part in ("pooling", "heads", "backbone"):
        named[part] = dict(getattr(vilex.encoder, part).named_parameters())
    named["denoiser"] = dict(made[DENOISER].modules[0].denoiser.named_parameters())
    named["frozen"] = dict(t2i.named_parameters())
    for name, side in made.items():
        before = {part: {key: value.clone() for key, value in own.items()} for part, own in named.items()}
        side.step()
        changed = {
            part
            for part, own in named.items()
            if any(not torch.equal(value, before[part][key]) for key, value in own.items())
        }
        assert changed == parts[name]


def test_memory_is_counted(config: StepCostConfig) -> None:
    made = sides(config)
    held = {name: memory(side) for name, side in made.items()}
    weights = sum(p.numel() * 4 for p in made[DENOISER].modules[0].parameters())
    assert held[DENOISER]["weights"] == weights
    for own in held.values():
        assert 2 * own["gradients"] <= own["optimizer"] < 2.01 * own["gradients"]  # two moments and a step count
    assert held[POOLING]["activations"] < held[BOTH]["activations"]
    larger = memory(sides(config.model_copy(update={"batch_size": 4}))[BOTH])
    assert 1.7 < larger["activations"] / held[BOTH]["activations"] < 2.1


def test_the_command_writes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    main(["--smoke", "--out", str(out), "--json"])
    result = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out)["rows"] == result["rows"]
    assert [row["side"] for row in result["rows"]] == [DENOISER, POOLING, BOTH]
    assert result["rows"][0]["ratio"] == result["rows"][0]["memory ratio"] == 1
    assert all(row["seconds"] > 0 and len(row["ratios"]) == 1 for row in result["rows"])
