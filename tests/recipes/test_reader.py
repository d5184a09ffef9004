"""The recipe ``reader``: it learns, and it saves a reader that opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor

from vislex.config import load_config
from vislex.errors import ConfigError
from vislex.hub import check_config
from vislex.metrics.reader import load_reader
from vislex.recipes.reader import ReaderRecipeConfig, run
from vislex.training.callbacks import read_log

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "train_size=24", "val_size=4", "batch_size=12",
    "steps=6", "eval_every=6", "log_every=3", "warmup_steps=0", "image_size=24", "render_workers=0", "lr=5e-3",
    "network={stem_channels: [16, 16, 16], hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}",
]  # fmt: skip


def train(folder: Path, *more: str) -> list[float]:
    run(load_config(ReaderRecipeConfig, None, [*SMALL, f"output_dir={folder}", *more]))
    return [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]


def test_it_saves_a_reader_that_opens(tmp_path: Path) -> None:
    losses = train(tmp_path)
    assert losses[1] < 0.8 * losses[0]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    reader = load_reader(tmp_path)
    assert (reader.dtype, reader.config.suite, len(reader.config.concepts or [])) == (torch.float32, "openmoji-v1", 100)
    assert AutoImageProcessor.from_pretrained(tmp_path).size["height"] == 24
    check_config(json.loads((tmp_path / "config.json").read_text()))
    figures = json.loads((tmp_path / "run.json").read_text())["figures"]
    for split in ("val", "test_composition", "test_artist"):
        assert 0 <= figures[f"eval_{split}_concept"] <= 1
    assert "eval_val_single_background" in figures
    assert "vislex train reader budget=smoke seed=0" in (tmp_path / "README.md").read_text()


def test_noise_changes_what_is_seen_and_the_measured_seed_is_refused(tmp_path: Path) -> None:
    assert train(tmp_path / "clean", "noise=0")[0] != train(tmp_path / "noisy", "noise=0.5")[0]
    with pytest.raises(ConfigError, match="data_seed"):
        load_config(ReaderRecipeConfig, None, ["data_seed=0"])
