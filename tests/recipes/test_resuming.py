"""Every recipe goes on from a checkpoint to the bytes of an uninterrupted run, whose losses are those of a list."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vislex.registry import registry

LOSSES = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text(encoding="utf-8"))


def weights(folder: Path) -> dict[str, bytes]:
    """Every file of weights that a run left, but for its checkpoints."""
    files = (path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def log(folder: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


def losses(entries: Sequence[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in entries if "loss" in entry]


def train(runs: ModuleType, name: str, folder: Path) -> Path:
    recipe, config = runs.prepared(name, folder)
    recipe.run(config)
    return folder


def test_it_ends_at_the_same_bytes(run_name: str, runs: ModuleType, tmp_path: Path) -> None:
    folder = train(runs, run_name, tmp_path / "run")
    whole, told = weights(folder), log(folder)
    assert whole
    assert losses(told) == pytest.approx(LOSSES[run_name], rel=2e-2 if "bf16" in run_name else 1e-3)
    cost = json.loads((folder / "run.json").read_text())["cost"]
    assert cost["samples_per_second"] > 0
    assert cost["forward"] + cost["backward"] <= 1
    assert cost["mfu"] is None  # of a cpu
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            path.unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-5")
    train(runs, run_name, folder)
    assert weights(folder) == whole
    again = log(folder)
    early, late = ([entry for entry in told if (entry["step"] <= 3) == early] for early in (True, False))
    assert again[: len(early)] == early  # with their times: these steps were not taken again
    assert losses(again[len(early) :]) == losses(late)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_again(run_name: str, runs: ModuleType, tmp_path: Path) -> None:
    first, second = (train(runs, run_name, tmp_path / name) for name in ("first", "second"))
    assert weights(first) == weights(second)
    assert losses(log(first)) == losses(log(second))


def test_every_recipe_is_here(runs: ModuleType) -> None:
    assert {recipe for recipe, _ in runs.RUNS.values()} == set(registry("recipes").names())
    assert LOSSES.keys() == runs.RUNS.keys()
