"""The recipe ``t2i_pretrain``: an ordinary diffusers folder, resumed to the bit, judged by the reader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from vislex.config import load_config
from vislex.data import load_suite
from vislex.data.openmoji.manifest import nouns
from vislex.diffusion.t2i import load_t2i
from vislex.errors import CheckpointError, ConfigError
from vislex.metrics.reader import Reader, ReaderConfig
from vislex.recipes.obedience import NAMEABLE, draw_images, obedience, single_object_prompts
from vislex.recipes.t2i_autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    open_autoencoder,
    train_autoencoder,
)
from vislex.recipes.t2i_pretrain import T2IPretrainConfig, build_model, run
from vislex.text import load_tokenizer
from vislex.training.callbacks import read_log

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "train_size=16", "val_size=4", "batch_size=4",
    "steps=4", "eval_every=4", "log_every=2", "warmup_steps=0", "image_size=24", "render_workers=0", "text_length=40",
    "denoiser={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 6}", "save_every=2",
    "text={d_model: 16, num_layers: 1, num_heads: 2, d_kv: 8, d_ff: 32}", "save_dtype=float32", "lr=5e-3",
]  # fmt: skip

LATENT = [
    *(word for word in SMALL if not word.startswith("denoiser")), "prediction=v_prediction", "autoencoder_steps=3",
    "denoiser={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 2}",
    "autoencoder={width: 8, decoder_width: 8, num_encoder_blocks: [0, 0, 1], num_decoder_blocks: [1, 0, 0], "
    "latent_channels: 4, batch_size: 4, warmup_steps: 0}",
]  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reader")
    sizes = {"image_size": 24, "stem_channels": [8, 8], "hidden_size": 16, "num_hidden_layers": 1}
    Reader(ReaderConfig(concepts=list(nouns("core")), num_attention_heads=2, **sizes)).save_pretrained(folder)
    return folder


def config(folder: Path, reader: Path | None, *more: str) -> T2IPretrainConfig:
    named = "null" if reader is None else str(reader)
    return load_config(T2IPretrainConfig, None, [*SMALL, f"output_dir={folder}", f"reader={named}", *more])


def test_it_saves_an_ordinary_pipeline_that_draws(tmp_path: Path, reader: Path) -> None:
    folder = run(config(tmp_path / "run", reader))
    entries = read_log(folder / "training.jsonl")
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[1] < losses[0]
    figures = json.loads((folder / "run.json").read_text())["figures"]
    assert set(NAMEABLE) <= {name.removeprefix("eval_") for name in figures}
    assert figures["eval_images"] == 4
    sheet = Image.open(folder / "samples.png")
    assert sheet.width > 4 * 2 * 96
    assert "PixArtAlphaPipeline" in (folder / "README.md").read_text()

    stock = diffusers.PixArtAlphaPipeline.from_pretrained(folder, vae=None)
    t2i = load_t2i(folder)
    assert (t2i.image_size, t2i.vae, t2i.process.prediction_type) == (24, None, "sample")
    assert t2i.max_soft_tokens == 38
    images = draw_images(t2i, ["a cat", "two dogs", "a cat"], guidance_scale=1.5, num_inference_steps=2, batch_size=2)
    assert images.shape == (3, 3, 24, 24)
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.5, "output_type": "latent", "height": 192, "width": 192}
    stock.set_progress_bar_config(disable=True)
    drawn = stock(
        "two dogs", generator=torch.Generator().manual_seed(1), use_resolution_binning=False, clean_caption=False,
        max_sequence_length=40, **arguments,
    ).images  # fmt: skip
    torch.testing.assert_close((drawn[0] / 2 + 0.5).clamp(0, 1), images[1], atol=1e-4, rtol=1e-4)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = run(config(tmp_path / "whole", None))
    cut = tmp_path / "cut"
    run(config(cut, None))
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    assert run(config(cut, None)) == cut
    for part in ("transformer", "text_encoder"):
        first, second = (getattr(load_t2i(folder), part).state_dict() for folder in (whole, cut))
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
    assert "eval_concept" not in json.loads((whole / "run.json").read_text())["figures"]
    assert "eval_loss" in json.loads((whole / "run.json").read_text())["figures"]


@pytest.fixture(scope="module")
def latent_run(tmp_path_factory: pytest.TempPathFactory, reader: Path, cache_in: Callable[[Path], str]) -> Path:
    folder = tmp_path_factory.mktemp("latent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISLEX_CACHE", cache_in(folder))
        return run(load_config(T2IPretrainConfig, None, [*LATENT, f"output_dir={folder / 'run'}", f"reader={reader}"]))


def test_on_latents_it_saves_an_ordinary_pipeline_with_an_autoencoder(latent_run: Path) -> None:
    t2i = load_t2i(latent_run)
    assert (t2i.image_size, t2i.vae_scale, t2i.process.prediction_type) == (24, 4, "v_prediction")
    assert not t2i.scheduler.config.clip_sample
    figures = json.loads((latent_run / "run.json").read_text())["figures"]
    assert {"eval_concept", "eval_decoded_concept", "eval_loss"} <= set(figures)
    assert "an autoencoder of" in (latent_run / "README.md").read_text()
    rows = load_suite("openmoji", split="train", size=16, vocabulary="core", image_size=24, style="dense")
    latents = t2i.encode_pixels(t2i.preprocess([row["image"] for row in rows]))
    assert latents.shape == (16, 4, 6, 6)
    torch.testing.assert_close(latents.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert t2i.vae.config.scaling_factor != 1

    images = draw_images(t2i, ["two dogs"], guidance_scale=1.5, num_inference_steps=2)
    stock = diffusers.PixArtAlphaPipeline.from_pretrained(latent_run)
    stock.set_progress_bar_config(disable=True)
    drawn = stock(
        "two dogs", generator=torch.Generator().manual_seed(0), use_resolution_binning=False, clean_caption=False,
        max_sequence_length=40, num_inference_steps=2, guidance_scale=1.5, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(drawn, images, atol=1e-4, rtol=1e-4)


def test_a_trained_autoencoder_is_taken_as_it_is(latent_run: Path, tmp_path: Path) -> None:
    log = (latent_run / "autoencoder" / "training.jsonl").read_text()
    first = load_t2i(latent_run).vae.state_dict()
    shutil.rmtree(latent_run / "checkpoints")
    shared = [*LATENT[:-1], "steps=1", "reader=null"]
    for folder, more in ((latent_run, LATENT[-1:]), (tmp_path, [f"autoencoder={latent_run / 'autoencoder'}"])):
        run(load_config(T2IPretrainConfig, None, [*shared, f"output_dir={folder}", *more]))
        for name, value in load_t2i(folder).vae.state_dict().items():
            assert torch.equal(value, first[name]), name
    assert (latent_run / "autoencoder" / "training.jsonl").read_text() == log
    assert not (tmp_path / "autoencoder").exists()


def test_two_denoisers_share_a_text_encoder_that_stays_as_it_is(latent_run: Path, tmp_path: Path) -> None:
    words = [*LATENT[:-1], f"output_dir={tmp_path / 'run'}", "reader=null", f"autoencoder={latent_run / 'vae'}"]
    folder = run(load_config(T2IPretrainConfig, None, [*words, "seed=1", f"text_from={latent_run}"]))
    first, second = load_t2i(latent_run), load_t2i(folder)
    assert first.tokenizers["tokenizer"].get_vocab() == second.tokenizers["tokenizer"].get_vocab()
    for part in ("text_encoder", "vae"):
        for name, value in getattr(first, part).state_dict().items():
            assert torch.equal(value, getattr(second, part).state_dict()[name]), name
    weights = second.denoiser.state_dict()
    assert all(not torch.equal(v, weights[name]) for name, v in first.denoiser.state_dict().items() if v.ndim == 2)
    assert f"taken from {latent_run}" in (folder / "README.md").read_text()
    parts = {row["part"]: row["mode"] for row in json.loads((folder / "run.json").read_text())["parts"]}
    assert (parts["t2i.text_encoder"], parts["t2i.transformer"]) == ("frozen", "full")


@pytest.mark.parametrize("option", ["noise=0", "lr=0.1", "latent_channels=3", "width=6", "decoder_width=6", "crop=8"])
def test_options_of_the_autoencoder_reach_it(option: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    losses = []
    for name, more in (("plain", []), ("other", [f"autoencoder.{option}"])):
        given = load_config(T2IPretrainConfig, None, [*LATENT, *more, "steps=3", "log_every=1", "save_every=0"])
        vae = train_autoencoder(given.autoencoder, given, tmp_path / name, images, images[:2])
        assert not any(parameter.requires_grad for parameter in vae.parameters())
        losses.append([e["loss"] for e in read_log(tmp_path / name / "training.jsonl") if "loss" in e])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("option", ["caption_dropout=0.9", "density=uniform", "logit_mean=1", "weighting=sample"])
def test_options_of_the_loss_reach_it(tmp_path: Path, option: str) -> None:
    losses = []
    for name, more in (("plain", []), ("other", [option])):
        run(config(tmp_path / name, None, "steps=1", "eval_every=1", "log_every=1", "save_every=0", *more))
        losses.append(next(e["loss"] for e in read_log(tmp_path / name / "training.jsonl") if "loss" in e))
    assert losses[0] != losses[1]


def test_guidance_and_steps_reach_the_pipeline() -> None:
    tokenizer = load_tokenizer()
    tokenizer.model_max_length = 40
    torch.manual_seed(0)
    t2i = build_model(load_config(T2IPretrainConfig, None, SMALL), tokenizer)
    plain = draw_images(t2i, ["a cat"], guidance_scale=1.0, num_inference_steps=2)
    assert not torch.equal(plain, draw_images(t2i, ["a cat"], guidance_scale=3.0, num_inference_steps=2))
    assert not torch.equal(plain, draw_images(t2i, ["a cat"], guidance_scale=1.0, num_inference_steps=3))
    assert not torch.equal(plain, draw_images(t2i, ["a cat"], guidance_scale=1.0, num_inference_steps=2, seed=1))
    with pytest.raises(ConfigError, match="no prompts"):
        draw_images(t2i, [], guidance_scale=1.0, num_inference_steps=2)


def test_prompts_are_of_scenes_with_one_object_and_obedience_is_by_image(reader: Path) -> None:
    prompts = single_object_prompts(5, image_size=24)
    assert len(prompts.texts) == len(prompts.images) == 5
    for text, record in zip(prompts.texts, prompts.factors, strict=True):
        assert len(record["objects"]) == 1
        assert record["objects"][0]["concept"] in text
        assert f"{record['background']} background" in text
    scores = obedience(Reader.from_pretrained(reader), np.stack(prompts.images), prompts)
    assert list(scores) == list(NAMEABLE)
    assert all(values.shape == (5,) for values in scores.values())


def test_what_cannot_run_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no shipped model 'nobody'"):
        run(config(tmp_path, Path("nobody")))
    small = load_config(T2IPretrainConfig, None, [*LATENT, "denoiser.patch_size=4"])
    with pytest.raises(ConfigError, match="4 does not divide image_size 24 / 4, the side of its latents"):
        build_model(small, load_tokenizer(), build_autoencoder(small.autoencoder))
    with pytest.raises(ConfigError, match="num_encoder_blocks has 3 stages and num_decoder_blocks 2"):
        build_autoencoder(AutoencoderSettings(num_decoder_blocks=(1, 0)))
    images = np.zeros((4, 24, 24, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match="crop 10 is no multiple of 4"):
        train_autoencoder(AutoencoderSettings(crop=10), small, tmp_path, images, images)
    with pytest.raises(CheckpointError, match=r"holds no 'diffusion_pytorch_model\.safetensors'"):
        open_autoencoder(tmp_path)
    with pytest.raises(ConfigError, match="does not divide image_size"):
        build_model(load_config(T2IPretrainConfig, None, ["denoiser.patch_size=7"]), load_tokenizer())


def test_a_text_encoder_of_another_family_is_refused(tiny_t2i: Any, tmp_path: Path) -> None:
    tiny_t2i("sd21").save_pretrained(tmp_path / "sd")
    with pytest.raises(ConfigError, match="is a StableDiffusionPipeline; a PixArtAlphaPipeline is needed"):
        run(config(tmp_path / "run", None, f"text_from={tmp_path / 'sd'}"))
