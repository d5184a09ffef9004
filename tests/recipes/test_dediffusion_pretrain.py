"""The recipe ``dediffusion_pretrain``: words in, words out, at a falling temperature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vislex.config import load_config
from vislex.data import load_suite
from vislex.recipes.dediffusion_pretrain import DeDiffusionPretrainConfig, run
from vislex.training.callbacks import read_log
from vislex.vilex import ViLex

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "train_size=12", "val_size=4", "batch_size=4",
    "steps=3", "eval_every=3", "log_every=1", "save_every=0", "warmup_steps=0", "n_tokens=4", "stages=frozen",
    "render_workers=0", "tiny=true", "pretrained=false", "depth=1",
    "data_options={vocabulary: core, image_size: 16, style: dense}",
]  # fmt: skip


@pytest.fixture(scope="module")
def t2i(tiny_t2i: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t2i")
    tiny_t2i("pixart-pixels").save_pretrained(folder)
    return folder


def train(folder: Path, t2i: Path, *more: str) -> tuple[ViLex, list[float]]:
    run(load_config(DeDiffusionPretrainConfig, None, [*SMALL, f"output_dir={folder}", f"t2i={t2i}", *more]))
    losses = [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]
    return ViLex.from_pretrained(folder), losses


def test_its_tokens_are_words_of_the_captions(tmp_path: Path, t2i: Path) -> None:
    model, _ = train(tmp_path, t2i, "temperature=[4.0, 0.5]")
    assert (model.is_discrete, model.config.tail_drop, list(model.config.temperature)) == (True, "none", [4.0, 0.5])
    rows = load_suite("openmoji", split="train", size=12, vocabulary="core", style="dense", image_size=16)
    words = {word for own in rows.with_format(None)["captions"] for text in own for word in text.split()}
    said = model.describe([rows[0]["image"]])[0].split()
    assert len(said) == 4
    assert set(said) <= words | {"<unk>"}
    figures = json.loads((tmp_path / "run.json").read_text())["figures"]
    assert "eval_loss_4" in figures
    assert "vislex train dediffusion_pretrain" in (tmp_path / "README.md").read_text()


def test_estimator_and_temperature_reach_the_training(tmp_path: Path, t2i: Path) -> None:
    plain, losses = train(tmp_path / "plain", t2i)
    gumbel, drawn = train(tmp_path / "gumbel", t2i, "estimator=gumbel")
    assert gumbel.config.estimator == "gumbel"
    assert losses != drawn
    hot, _ = train(tmp_path / "hot", t2i, "temperature=[2.0, 9.0]")  # another slope: other gradients from step two on
    heads = [model.encoder.heads[0].weight for model in (plain, hot)]
    assert not torch.equal(*heads)
