"""The recipe ``mask_tokenizer``: it learns, all of its settings count, and what it saves is what ``loc_seg`` opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vislex
from vislex.config import load_config
from vislex.recipes.mask_tokenizer import MaskTokenizerSettings, ceiling, run
from vislex.segmentation.mask_tokenizer import SHIPPED, MaskTokenizer
from vislex.shipped import shipped
from vislex.training.callbacks import read_log

SMALL = [
    "budget=smoke", "progress=false", "device=cpu", "train_size=24", "val_size=6", "batch_size=8", "steps=12",
    "eval_every=12", "log_every=3", "warmup_steps=1", "lr=3e-3", "save_every=0", "codebook.warmup=0.5",
    "model={channels: [4, 8, 8, 16], num_residual_blocks: 1, code_dim: 16, num_codes: 32}",
]  # fmt: skip


def train(folder: Path, *more: str) -> tuple[Path, list[float]]:
    out = run(load_config(MaskTokenizerSettings, None, [*SMALL, f"output_dir={folder}", *more]))
    return out, [entry["loss"] for entry in read_log(out / "training.jsonl") if "loss" in entry]


def test_it_learns_and_saves_what_the_codec_opens(tmp_path: Path) -> None:
    folder, losses = train(tmp_path / "run")
    assert losses[-1] < losses[0]
    codec = vislex.create_codec("loc_seg", tokenizer=folder)
    mask = np.zeros((40, 30), dtype=bool)
    mask[5:25, 4:20] = True
    decoded = codec.decode(codec.encode([mask]), mask.shape)
    assert decoded.invalid is None
    assert len(codec.new_tokens) == 1024 + 32
    model = MaskTokenizer.load(folder)
    assert model.codebook.abs().sum() > 0
    assert model.codebook.std(0).mean() > 0  # not one code
    figures = json.loads((folder / "run.json").read_text())["figures"]
    assert 0 < figures["mIoU"] <= 1
    assert 1 <= figures["codes"] <= 32
    card = (folder / "README.md").read_text()
    assert "vislex train mask_tokenizer budget=smoke seed=0" in card
    assert "CC BY-SA 4.0" in card


def test_a_run_that_is_interrupted_ends_as_one_that_is_not(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", "save_dtype=float32")
    train(tmp_path / "torn", "save_every=9", "save_dtype=float32")
    newest = tmp_path / "torn" / "checkpoints" / "checkpoint-12"
    (newest / "model.safetensors").write_bytes(b"torn")
    again, _ = train(tmp_path / "torn", "save_every=9", "save_dtype=float32")
    before, after = MaskTokenizer.load(whole).state_dict(), MaskTokenizer.load(again).state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)


def test_settings_count(tmp_path: Path) -> None:
    short = ("steps=3", "eval_every=3", "log_every=1", "val_size=1", "codebook.warmup=0.4")
    _, plain = train(tmp_path / "plain", *short)
    for change in ("flip=false", "render_sizes=[64]", "codebook.warmup=0"):
        assert train(tmp_path / change.partition("=")[0], *short, change)[1] != plain, change


def test_the_ceiling_is_that_of_the_shipped_one() -> None:
    masks: list[Any] = [np.ones((20, 20), dtype=bool), np.zeros((5, 5), dtype=bool), np.triu(np.ones((30, 30), bool))]
    figures = ceiling(MaskTokenizer.load(shipped(SHIPPED)), masks)
    assert figures["mIoU"] > 0.93
    assert 0.5 < figures["mIoU_box"] < 0.8  # (1 + 0.52) / 2: the empty mask is left out
    assert 2 < figures["codes"] <= 32
