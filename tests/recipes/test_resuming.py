"""Every recipe goes on from a checkpoint to the very bytes that an uninterrupted run leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.captioner import Captioner
from vislex.config import load_config
from vislex.decoders.ladic.codec import LatentCodec
from vislex.encoders.factory import create_encoder
from vislex.registry import registry
from vislex.text import load_tokenizer, prune_tokenizer

SHARED = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "batch_size=4", "val_size=4", "log_every=1",
    "warmup_steps=1", "steps=5", "eval_every=5", "save_every=3",
]  # fmt: skip
CAPTION = ["train_size=10", "encoder=siglip-tiny", "tiny=true", "pretrained=false"]  # 20 samples of 10: mid-epoch
SMALL_DECODER = "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2, dropout: 0.1}"
TOWER = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
VILEX = [
    "t2i=<t2i>", "train_size=10", "n_tokens=4", "render_workers=0", "tiny=true", "pretrained=false", "depth=1",
    "data_options={vocabulary: core, image_size: 16, style: dense}",
]  # fmt: skip

# <name> is the folder that the fixture ``start`` makes for it.
RUNS: dict[str, tuple[str, list[str]]] = {
    "caption": ("caption", [*CAPTION, SMALL_DECODER, "ema_decay=0.9"]),
    "caption, live": ("caption", [*CAPTION, SMALL_DECODER, "cache_features=false", "parts.encoder.mode=lora"]),
    "caption, accumulated": ("caption", [*CAPTION, SMALL_DECODER, "gradient_accumulation=2"]),
    "caption, bf16": ("caption", [*CAPTION, SMALL_DECODER, "precision=bf16"]),
    "caption, masked": ("caption", [*CAPTION, SMALL_DECODER, "decoder=masked"]),
    "caption, ladic": (
        "caption",
        [
            *CAPTION, "decoder=ladic", "tokenizer=<codec>", "ema_decay=0.9", "data_options={vocabulary: core}",
            "decoder_options={codec: <codec>, hidden_size: 16, num_layers: 1, num_heads: 2, dropout: 0.1}",
            "parts.others={decoder.codec: {mode: frozen}}", "validation_options={num_inference_steps: 2}",
        ],
    ),
    "ladic_codec": ("ladic_codec", ["text_model=<text>", "train_size=10", "data_options={vocabulary: core}"]),
    "ladic_few_step": (
        "ladic_few_step",
        ["model=<ladic>", "train_size=10", "segments=2", "segment_steps=2", "data_options={vocabulary: core}"],
    ),
    "siglip_pretrain": (
        "siglip_pretrain",
        [
            "train_size=10", "text_length=12", "image_size=24", "render_workers=0", "render_sizes=[24]",
            f"vision={TOWER}", f"text={TOWER}",
        ],
    ),
    "mask_tokenizer": (
        "mask_tokenizer",
        [
            "train_size=24", "batch_size=8", "codebook.warmup=0.4", "codebook.restart_every=1",
            "model={channels: [4, 8, 8, 16], num_residual_blocks: 1, code_dim: 16, num_codes: 32}",
        ],
    ),
    "reader": (
        "reader",
        [
            "train_size=24", "image_size=24", "render_workers=0",
            "network={stem_channels: [8, 8], hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}",
        ],
    ),
    "lm_pretrain": (
        "lm_pretrain",
        [
            "train_size=40", "pack_length=96", "hidden_size=32", "num_layers=1", "num_heads=2", "num_kv_heads=1",
            "intermediate_size=64",
        ],
    ),
    "align": ("align", ["llm=hf:<lm>", "tiny=true", "pretrained=false"]),
    "realign": ("realign", ["model=<swapped>", "control=<host>", "train_size=10", "parts.llm.mode=lora"]),
    "sft": ("sft", ["llm=hf:<lm>", "tiny=true", "pretrained=false", "parts.llm.mode=lora"]),
    "t2i_pretrain": (
        "t2i_pretrain",
        [
            "train_size=10", "image_size=24", "render_workers=0", "text_length=40", "reader=null",
            "denoiser={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 6}",
            "text={d_model: 16, num_layers: 1, num_heads: 2, d_kv: 8, d_ff: 32}",
        ],
    ),
    "vilex_pretrain": ("vilex_pretrain", [*VILEX, "stages=frozen"]),
    "dediffusion_pretrain": ("dediffusion_pretrain", [*VILEX, "stages=frozen", "temperature=[4.0, 0.5]"]),
}  # fmt: skip


def _language_model(folder: Path) -> None:
    """A tiny Llama with the suite's words, as ``lm_pretrain`` leaves one."""
    texts: list[str] = []
    for task, names in (("caption", ("captions",)), ("vqa", ("question", "answer"))):
        rows = vislex.data.load_suite("openmoji", task, split="train", size=40).with_format(None)
        texts += [text for name in names for own in rows[name] for text in ([own] if isinstance(own, str) else own)]
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), texts)[0])
    vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _codec(text_model: Path) -> LatentCodec:
    return LatentCodec.create(load_tokenizer(text_model), ["two red drums.", "a dog"], text_model=text_model)


def _ladic(folder: Path, text_model: Path) -> None:
    """An untrained LaDiC captioner."""
    sampling = {"num_inference_steps": 4, "guidance_scale": 1.0, "refine_at": 0.5, "temperature": 0.5}
    Captioner.from_parts(
        encoder=create_encoder("siglip-tiny", tiny=True, seed=0), decoder="ladic",
        tokenizer=load_tokenizer(text_model), codec=_codec(text_model), hidden_size=16, num_layers=1, num_heads=2,
        dropout=0.0, max_length=40, sampling=sampling,
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture
def start(tmp_path: Path, tiny_t2i: Callable[..., Any], request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Makes the folder that a run starts from, by its name in ``RUNS``."""

    def make(name: str) -> Path:
        folder = tmp_path / f"from-{name}"
        torch.manual_seed(0)
        if name in ("swapped", "host"):
            swapped, host = request.getfixturevalue("hosts")
            return swapped if name == "swapped" else host
        if name == "t2i":
            tiny_t2i("pixart-pixels").save_pretrained(folder)
        elif name == "lm":
            _language_model(folder)
        else:
            text_model: Path = request.getfixturevalue("text_model")
            if name == "text":
                return text_model
            if name == "ladic":
                _ladic(folder, text_model)
            else:
                _codec(text_model).save_pretrained(folder)
                load_tokenizer(text_model).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def train(start: Callable[[str], Path]) -> Callable[[str, Path], Path]:
    """Trains a run of ``RUNS`` into a folder."""

    def run(name: str, folder: Path) -> Path:
        recipe, overrides = RUNS[name]
        for made in ("t2i", "lm", "text", "codec", "ladic", "swapped", "host"):
            if any(f"<{made}>" in text for text in overrides):
                overrides = [text.replace(f"<{made}>", str(start(made))) for text in overrides]
        loaded = registry("recipes").get(recipe).load()
        loaded.run(load_config(loaded.config, None, [*SHARED, *overrides, f"output_dir={folder}"]))
        return folder

    return run


def weights(folder: Path) -> dict[str, bytes]:
    """Every file of weights that a run left, but for its checkpoints."""
    files = (path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def log(folder: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_it_ends_at_the_same_bytes(name: str, tmp_path: Path, train: Callable[[str, Path], Path]) -> None:
    folder = train(name, tmp_path / "run")
    whole, told = weights(folder), log(folder)
    assert whole
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            path.unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-5")
    train(name, folder)
    assert weights(folder) == whole
    again = log(folder)
    early, late = ([entry for entry in told if (entry["step"] <= 3) == early] for early in (True, False))
    assert again[: len(early)] == early  # with their times: these steps were not taken again
    assert [e["loss"] for e in again[len(early) :] if "loss" in e] == [e["loss"] for e in late if "loss" in e]


def test_every_recipe_is_here() -> None:
    assert {recipe for recipe, _ in RUNS.values()} == set(registry("recipes").names())
