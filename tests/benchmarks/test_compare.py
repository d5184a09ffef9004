"""A comparison from training to report at the smoke budget, and what is fixed before its runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vislex.benchmarks import demo
from vislex.benchmarks.arms import Arm
from vislex.benchmarks.compare import ComparisonConfig, run
from vislex.benchmarks.demo import DIFFUSION, ENCODERS, demo_config
from vislex.benchmarks.results import ResultsFile
from vislex.benchmarks.summary import all_pairs, summarise
from vislex.config import load_config
from vislex.errors import ConfigError

TINY = ["tiny=true", "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2}", "steps=2", "train_size=8"]
NAME = "efficientnet-lite0@untrained"


def _config(out: Path, **changes: object) -> ComparisonConfig:
    values = {
        "encoders": [NAME],
        "decoders": ["prefix"],
        "budget": "smoke",
        "size": 6,
        "image_size": 32,
        "n_latency": 2,
        "n_images": 2,
        "n_train": 30,
        "train": TINY,
        "out": out,
        **changes,
    }
    return ComparisonConfig(**values)


def test_a_comparison_trains_measures_reports_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_in: Callable[[Path], str]
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", cache_in(tmp_path))
    lines: list[str] = []
    report = run(_config(tmp_path / "c"), log=lines.append)
    results = ResultsFile(report.parent / "results.json").load()
    assert [run.model.origin for run in results.runs] == ["floor", "floor", "ceiling", "trained live"]
    made = results.runs[-1]
    assert made.model.row == f"{NAME} + prefix"
    assert made.model.seed == 0
    assert made.model.parameters["frozen"] > 0
    assert made.model.parameters["budgeted"] < made.model.parameters["trainable"]
    assert made.model.curve[-1]["step"] == 2
    assert made.model.training is not None
    assert made.model.training["config"]["pretrained"] is False
    assert made.n == len(made.captions) == 6
    assert NAME in report.read_text()
    assert "trained live" in lines[0]

    # A second seed: the first arm is skipped, the second trained, and the row now covers both.
    lines.clear()
    run(_config(tmp_path / "c", seeds=2), log=lines.append)
    assert "skipped" in lines[0]
    again = ResultsFile(report.parent / "results.json").load()
    assert len(again.runs) == 5
    assert again.runs[:4] == results.runs
    row = next(row for row in summarise(again, next(iter(again.data.values()))) if row.is_model)
    assert row.seeds == [0, 1]
    assert not all_pairs(again, next(iter(again.data.values())))

    # What counts is fixed once there are runs.
    with pytest.raises(ConfigError, match="fixed before the runs"):
        run(_config(tmp_path / "c", margin=0.1))


def test_pairs_follow_from_controls_and_baseline() -> None:
    config = ComparisonConfig(encoders=["a", "a@untrained", "b"], decoders=["prefix"], seeds=2, baseline="b + prefix")
    assert config.wanted_pairs() == [
        ["a + prefix", "a@untrained + prefix"],
        ["a + prefix", "b + prefix"],
        ["a@untrained + prefix", "b + prefix"],
    ]
    assert [arm.seed for arm in config.arms] == [0, 0, 0, 1, 1, 1]


def test_an_arm_and_its_control_differ_in_their_weights_only() -> None:
    arm = Arm("siglip-tiny", "prefix", seed=1)
    changed = set(arm.overrides("demo")) ^ set(arm.control.overrides("demo"))
    assert changed == {"pretrained=true", "pretrained=false"}
    assert arm.identity("smoke", [], []) != arm.control.identity("smoke", [], [])
    assert arm.identity("smoke", [], []) == Arm("siglip-tiny", "prefix", seed=1).identity("smoke", [], [])
    assert arm.identity("smoke", ["lr=0.5"], []) != arm.identity("smoke", [], [])


def test_every_mistake_of_a_config_is_told() -> None:
    with pytest.raises(ConfigError, match=r"(?s)seeds.*budgett"):
        load_config(ComparisonConfig, None, ["encoders=[a]", "decoders=[b]", "seeds=0", "budgett=demo"])
    with pytest.raises(ConfigError, match="nothing to compare"):
        load_config(ComparisonConfig, None, [])


def test_the_demo_says_how_the_diffusion_captioners_were_trained() -> None:
    for name in DIFFUSION:
        assert "steps on an autoregressive teacher's captions" in demo._told_apart(name)


def test_the_demo_pairs_each_encoder_with_itself_untrained(tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    assert config.margin is None
    assert len(config.arms) == 2 * len(ENCODERS)
    assert [f"{a.split(' + ')[0]}@untrained" for a, _ in config.wanted_pairs()] == [
        b.split(" + ")[0] for _, b in config.wanted_pairs()
    ]
