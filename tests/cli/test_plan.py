"""``vislex plan``: tables, JSON, and what it says where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vislex.cli.main import main
from vislex.recipes import reader

SMALL = ["network={stem_channels: [8, 8], hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}"]
SMALL += ["image_size=24", "batch_size=4", "precision=fp32"]


def test_a_plan_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "reader", *SMALL, "--device", "a100", "--gpus", "2"]) == 0
    told = capsys.readouterr().out
    for word in ("backbone", "fsdp2", "largest batch", "fits into the memory of 80 GB with ddp", "US dollars"):
        assert word in told
    assert main(["plan", "reader_embedded", *SMALL, "--device", "a100", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["device"], plan["dtype"], plan["gpus"]) == ("a100", "float32", 1)
    assert plan["memory"]["ddp"]["total"] > plan["memory"]["ddp"]["weights"] > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine"], "--recipe"),
        (["reader", "--device", "h1000"], "did you mean"),
        (["reader", "--device", "h100", "--calibrate", "reader"], "leave one of them out"),
        (["reader", "--recipe", "readr"], "did you mean 'reader'"),
        (["sft", "quantize=nf4", "model=x"], "quantize=none"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_recipe_without_a_sketch_is_not_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reader, "RECIPE", replace(reader.RECIPE, sketch=None))
    assert main(["plan", "reader"]) == 2
    assert "'reader' does not say what it would train" in capsys.readouterr().err


def test_a_calibration_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path))
    assert main(["plan", "reader", *SMALL]) == 0
    assert "not known for this machine" in capsys.readouterr().out
    small = tmp_path / "mask_tokenizer_small.yaml"
    small.write_text("model: {channels: [4, 8, 8, 16], code_dim: 16, num_codes: 32}\nbatch_size: 4\n")
    assert main(["plan", "reader", *SMALL, "--calibrate", str(small)]) == 0
    first = capsys.readouterr().out
    assert f"measured on {small}" in first
    assert main(["plan", "reader", *SMALL]) == 0
    assert f"measured on {small}" in capsys.readouterr().out


def test_a_decoder_whose_codec_is_not_here_is_planned_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path))
    mine = tmp_path / "caption_mine.yaml"
    mine.write_text("budget: smoke\ndecoder: ladic\ndecoder_options: {codec: nowhere, preset: fast}\n")
    assert main(["plan", str(mine), "--calibrate", str(mine)]) == 0
    assert "the codec 'nowhere' is not here: taken as the halves of minilm" in capsys.readouterr().out
