"""The recipe ``vilex_pretrain``: what trains and what stays, paired losses, and resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.config import load_config
from vislex.data import load_suite
from vislex.data.openmoji import provenance
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.modules.digest import weights_digest
from vislex.processing import create_image_processor
from vislex.recipes.vilex_data import ImagePairs
from vislex.recipes.vilex_pretrain import ViLexPretrainConfig, budgets_of, build_model, paired_losses, run
from vislex.training.callbacks import read_log
from vislex.vilex import ViLex

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "train_size=12", "val_size=4", "batch_size=4",
    "steps=3", "pooling_steps=2", "eval_every=3", "log_every=1", "save_every=0", "warmup_steps=0", "n_tokens=4",
    "render_workers=0", "tiny=true", "pretrained=false", "depth=1",
    "data_options={vocabulary: core, image_size: 16, style: dense}",
]  # fmt: skip


@pytest.fixture(scope="module")
def t2i(tiny_t2i: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t2i")
    tiny_t2i("pixart-pixels").save_pretrained(folder)
    return folder


def config(folder: Path, t2i: Path, *more: str) -> ViLexPretrainConfig:
    return load_config(ViLexPretrainConfig, None, [*SMALL, f"output_dir={folder}", f"t2i={t2i}", *more])


def start(given: ViLexPretrainConfig) -> ViLex:
    torch.manual_seed(given.seed)
    return build_model(given)


def test_two_stages_train_the_pooling_first_and_then_the_encoder_slower(tmp_path: Path, t2i: Path) -> None:
    given = config(tmp_path, t2i, "lr=0.03")
    before, folder = start(given), run(given)
    pooled, trained = (ViLex.from_pretrained(path) for path in (folder / "pooling", folder))
    first = before.encoder.backbone.state_dict()
    for name, value in pooled.encoder.backbone.state_dict().items():
        assert torch.equal(value, first[name]), name
    assert not torch.equal(pooled.encoder.pooling.queries, before.encoder.pooling.queries)
    assert weights_digest(trained.encoder.backbone) != weights_digest(pooled.encoder.backbone)
    record = json.loads((folder / "run.json").read_text())
    rates = {row["part"]: row["lr"] for row in record["parts"] if row["part"] in ("encoder.backbone", "encoder.heads")}
    assert rates == {"encoder.backbone": pytest.approx(0.001), "encoder.heads": 0.03}
    assert {"eval_loss_1", "eval_loss_4", "pooling_loss_4"} <= set(record["figures"])
    assert record["t2i"] == trained.config.t2i
    assert trained.config.t2i["source"]["sha256"]
    assert Image.open(folder / "samples.png").width > 3 * 96
    assert "vislex train vilex_pretrain" in (folder / "README.md").read_text()
    assert create_encoder(f"vilex:{folder}", pretrained=True, n_tokens=2).spec.n_tokens == 2


def test_the_other_stages_and_rates(tmp_path: Path, t2i: Path) -> None:
    given = config(tmp_path / "frozen", t2i, "stages=frozen")
    before = weights_digest(start(given).encoder.backbone)
    frozen = ViLex.from_pretrained(run(given))
    assert weights_digest(frozen.encoder.backbone) == before
    assert not (tmp_path / "frozen" / "pooling").exists()
    whole = ViLex.from_pretrained(run(config(tmp_path / "whole", t2i, "stages=end_to_end", "backbone_lr=0.01")))
    assert weights_digest(whole.encoder.backbone) != before
    rows = json.loads((tmp_path / "whole" / "run.json").read_text())["parts"]
    assert next(row["lr"] for row in rows if row["part"] == "encoder.backbone") == 0.01


@pytest.mark.parametrize(
    "option",
    [
        "tail_drop=none",
        "use_captions=true",
        "objective={weighting: v}",
        "optimizer=adafactor",
        "depth=2",
        "token_scale=3.0",
        "order=text_first",
        "inject=output",
    ],
)
def test_options_reach_the_training(tmp_path: Path, t2i: Path, option: str) -> None:
    shared = ["stages=frozen", "save_dtype=bfloat16"]
    if option.startswith("order"):
        shared += ["use_captions=true", "caption_dropout=0"]
    losses = []
    for name, more in (("plain", []), ("other", [option])):
        run(config(tmp_path / name, t2i, *shared, *more))
        losses.append([e["loss"] for e in read_log(tmp_path / name / "training.jsonl") if "loss" in e])
    assert losses[0] != losses[1]
    saved = ViLex.from_pretrained(tmp_path / "other")
    if option.startswith("tail_drop"):
        assert saved.config.tail_drop == "none"
    if option == "use_captions=true":
        assert saved.config.caption_dropout == 0.5
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    assert np.isfinite(record["figures"]["eval_loss_4"])


def test_a_resumed_second_stage_ends_where_an_uninterrupted_one_does(tmp_path: Path, t2i: Path) -> None:
    whole = run(config(tmp_path / "whole", t2i, "steps=4", "save_every=2", "eval_every=4"))
    cut = tmp_path / "cut"
    run(config(cut, t2i, "steps=4", "save_every=2", "eval_every=4"))
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    pooling = (cut / "pooling" / "training.jsonl").read_text()
    run(config(cut, t2i, "steps=4", "save_every=2", "eval_every=4"))
    assert (cut / "pooling" / "training.jsonl").read_text() == pooling  # not trained again
    first, second = (ViLex.from_pretrained(folder).state_dict() for folder in (whole, cut))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_losses_are_paired_over_budgets_and_the_same_in_every_call(tmp_path: Path, t2i: Path) -> None:
    model = start(config(tmp_path, t2i))
    rows = load_suite("openmoji", split="val", size=5, image_size=16)
    shared = {"frozen": True, "cache": False, "provenance": provenance()}
    pairs = ImagePairs(rows, model.encoder.backbone, model.image_processor, model.t2i, **shared)
    losses = paired_losses(model, pairs, [1, 4], draws=2, batch_size=2)
    assert {count: values.shape for count, values in losses.items()} == {1: (5,), 4: (5,)}
    again = paired_losses(model, pairs, [4], draws=2, batch_size=2)
    assert np.array_equal(again[4], losses[4])
    assert not np.array_equal(paired_losses(model, pairs, [4], draws=2, batch_size=2, seed=1)[4], losses[4])
    assert not np.array_equal(paired_losses(model, pairs, [4], batch_size=2)[4], losses[4])
    assert not np.array_equal(losses[1], losses[4])
    assert [budgets_of(n) for n in (1, 4, 16, 20)] == [[1], [1, 4], [1, 4, 16], [1, 4, 16, 20]]


def test_images_come_to_both_sides_alike_with_and_without_cache(tmp_path: Path, tiny_t2i: Callable[..., Any]) -> None:
    t2i = tiny_t2i("sd15")
    encoder = create_encoder("siglip-tiny", tiny=True)
    processor = create_image_processor(encoder.spec)
    rows = load_suite("openmoji", split="val", size=4, image_size=48)
    made = {}
    for name, frozen, cache in (("live", False, False), ("pixels", False, True), ("tokens", True, True)):
        pairs = ImagePairs(rows, encoder, processor, t2i, frozen=frozen, cache=cache, provenance=provenance())
        made[name] = pairs.batch(np.array([2, 0]))
    assert set(made["tokens"]) == {"vision_tokens", "latents"}
    for name in ("pixels", "tokens"):
        torch.testing.assert_close(made[name]["latents"], made["live"]["latents"], atol=0.1, rtol=0.05)
    torch.testing.assert_close(made["pixels"]["pixel_values"], made["live"]["pixel_values"], atol=0.05, rtol=0)
    with torch.no_grad():
        expected = encoder(made["live"]["pixel_values"]).tokens
    torch.testing.assert_close(made["tokens"]["vision_tokens"], expected, atol=0.05, rtol=0.05)
    assert made["live"]["latents"].shape[1] == 4
    naflex = create_encoder("siglip2-b16-naflex", tiny=True)
    with pytest.raises(ConfigError, match="cannot be cached for its training"):
        ImagePairs(rows, naflex, processor, t2i, frozen=False, cache=True, provenance=provenance())


def test_the_latents_of_an_autoencoder_are_what_is_to_be_drawn(tmp_path: Path, tiny_t2i: Callable[..., Any]) -> None:
    tiny_t2i("pixart-latents").save_pretrained(tmp_path / "t2i")
    given = config(tmp_path / "run", tmp_path / "t2i", "stages=frozen")
    model = start(given)
    assert (model.t2i.image_size, model.t2i.vae_scale) == (16, 2)
    rows = load_suite("openmoji", split="val", size=3, vocabulary="core", image_size=16)
    pairs = ImagePairs(
        rows, model.encoder.backbone, model.image_processor, model.t2i, frozen=True, cache=True, provenance=provenance()
    )
    latents = pairs.batch(np.array([2, 0]))["latents"]
    pixels = model.t2i.preprocess([rows[2]["image"], rows[0]["image"]])
    torch.testing.assert_close(latents, model.t2i.vae.encode(pixels).latents.detach())
    folder = run(given)
    assert Image.open(folder / "samples.png").width > 3 * 96
    trained = ViLex.from_pretrained(folder)
    assert trained.reconstruct([rows[0]["image"]])[0].size == (16, 16)
    assert not torch.equal(trained.encoder.pooling.queries, model.encoder.pooling.queries)
