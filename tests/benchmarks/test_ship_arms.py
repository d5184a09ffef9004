"""Captioners that are trained once, shipped, and measured in place of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vislex.benchmarks.arms import Arm, shipped_arm, train_arm
from vislex.benchmarks.caption_data import load_suite_captions
from vislex.benchmarks.compare import ComparisonConfig, _measure_arm, run
from vislex.benchmarks.demo import LIVE, demo_config
from vislex.benchmarks.results import ResultsFile
from vislex.benchmarks.ship_arms import arms_to_ship, ship
from vislex.benchmarks.summary import summarise
from vislex.errors import CheckpointError, ConfigError
from vislex.shipped import shipped, shipped_models

TINY = ["tiny=true", "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2}", "steps=2", "train_size=8"]
NAMES = ["siglip-tiny@untrained", "efficientnet-lite0@untrained"]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that ships nothing yet."""
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vislex.shipped.weights_folder", lambda: tmp_path / "weights")
    return tmp_path / "weights"


def _config(out: Path, **changes: object) -> ComparisonConfig:
    values = {
        "encoders": NAMES, "decoders": ["prefix"], "budget": "smoke", "size": 4, "image_size": 32, "n_latency": 0,
        "n_images": 1, "n_train": 10, "train": TINY, "shipped": True, "train_missing": False, "out": out, **changes,
    }  # fmt: skip
    return ComparisonConfig(**values)


def test_a_shipped_arm_is_measured_in_place_of_its_training(weights: Path, tmp_path: Path) -> None:
    config = _config(tmp_path / "c")
    arm = config.arms[0]
    trained = train_arm(arm, budget="smoke", folder=tmp_path / "runs", overrides=config.recipe_overrides)
    target = ship(trained, weights)
    assert target.name == "captioner-prefix-siglip-tiny-untrained"
    assert str(tmp_path) not in "".join(file.read_text() for file in target.glob("*.json*"))
    assert shipped_models("captioner-*") == [target.name]

    lines: list[str] = []
    report = run(config, log=lines.append)
    file = ResultsFile(report.parent / "results.json")
    made = file.load().runs[-1]
    assert (made.model.row, made.model.origin, made.model.seed) == (f"{NAMES[0]} + prefix", "shipped", 0)
    assert made.model.parameters["frozen"] > 0
    assert made.model.curve[-1]["step"] == 2
    assert any("left out: no shipped model 'captioner-prefix-efficientnet-lite0-untrained'" in line for line in lines)
    assert not (tmp_path / "c" / "models").exists()

    lines.clear()  # again: nothing is measured twice; and by its name it is the same row
    run(_config(tmp_path / "c", models=[target.name]), log=lines.append)
    assert len(file.load().runs) == 4
    assert sum("finished before" in line for line in lines) == 2

    # Live, or where the training would be another one, the shipped weights do not count.
    run(_config(tmp_path / "c", live=[arm.row]), log=lines.append)
    results = file.load()
    assert [item.model.origin for item in results.runs[-2:]] == ["shipped", "trained live"]
    rows = [row for row in summarise(results, next(iter(results.data.values()))) if row.is_model]
    assert [(row.origin, row.seeds) for row in rows] == [("trained live", [0])]
    with pytest.raises(CheckpointError, match="other values of data_options, steps"):
        shipped_arm(arm, budget="smoke", overrides=[*TINY, "steps=3"])
    with pytest.raises(CheckpointError, match="other values of seed"):
        shipped_arm(Arm(arm.encoder, arm.decoder, seed=1), budget="smoke", overrides=config.recipe_overrides)


def test_an_arm_that_cannot_be_opened_here_is_left_out(weights: Path, tmp_path: Path) -> None:
    config = _config(tmp_path / "c", encoders=NAMES[:1])
    trained = train_arm(config.arms[0], budget="smoke", folder=tmp_path / "runs", overrides=config.recipe_overrides)
    file = ship(trained, weights) / "config.json"
    values = json.loads(file.read_text())
    values["encoder_config"]["source"]["sha256"] = "0" * 64  # as if drawn on another kind of processor
    file.write_text(json.dumps(values))
    lines: list[str] = []
    data = load_suite_captions("openmoji", size=2, image_size=32, n_images=1, n_train=2)
    _measure_arm(config, config.arms[0], [data], ResultsFile(tmp_path / "results.json"), lines.append)
    assert any("left out: seed 0 draws other random weights" in line for line in lines)
    (file.parent / "run.json").unlink()
    with pytest.raises(CheckpointError, match="does not say how it was trained"):
        shipped_arm(config.arms[0], budget="smoke", overrides=config.recipe_overrides)


def test_names_of_shipped_arms() -> None:
    names = [Arm(encoder, "cross_attention").shipped_name for encoder in ("efficientnet-lite0", "siglip-tiny")]
    assert names == ["captioner-cross-attention", "captioner-cross-attention-siglip-tiny"]
    assert Arm("efficientnet-lite0@untrained", "prefix").shipped_name == "captioner-prefix-efficientnet-lite0-untrained"
    config = demo_config(Path("runs/demo"))
    assert [arm.row for arm in arms_to_ship(config, LIVE)] == list(LIVE) == config.live
    assert len(arms_to_ship(config)) == len({arm.shipped_name for arm in config.arms}) == 8
    with pytest.raises(ConfigError, match="did you mean 'siglip-tiny \\+ prefix'"):
        arms_to_ship(config, ["siglip-tinny + prefix"])
    with pytest.raises(ValueError, match="live: no row 'nothing'"):
        _config(Path("runs"), live=["nothing"])


def test_what_is_shipped_is_what_the_demo_would_train() -> None:
    config = demo_config(Path("runs/demo"))
    for arm in config.arms:
        name = arm.shipped_name
        if name not in shipped_models("captioner-*") or not (shipped(name) / "run.json").is_file():
            continue
        assert shipped_arm(arm, budget=config.budget, overrides=config.recipe_overrides).origin == "shipped"
