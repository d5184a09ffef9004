"""The recipe ``ladic_codec`` and ``caption`` with LaDiC at smoke size; the paper's configuration at full size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig

from vislex.captioner import Captioner
from vislex.cli.train import find_config
from vislex.config import load_config
from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec, LatentCodecConfig
from vislex.decoders.ladic.codec_loading import load_codec
from vislex.decoders.ladic.config import LadicConfig
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.ladic.presets import preset
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError
from vislex.recipes.caption import CaptionConfig
from vislex.recipes.caption import run as run_caption
from vislex.recipes.caption_data import caption_inputs
from vislex.recipes.ladic_codec import LadicCodecConfig, run
from vislex.text import load_tokenizer
from vislex.training.callbacks import read_log
from vislex.training.captions import CaptionBank

SHARED = ["budget=smoke", "progress=false", "precision=fp32", "device=cpu", "data_options={vocabulary: core}"]


def train_codec(folder: Path, text_model: Path, *overrides: str) -> Path:
    options = [*SHARED, f"text_model={text_model}", f"output_dir={folder}", "lr=1e-2", "steps=80", "eval_every=80"]
    return run(load_config(LadicCodecConfig, None, [*options, "val_size=4", *overrides]))


def test_a_codec_learns_the_round_trip_and_a_captioner_trains_on_it(tmp_path: Path, text_model: Path) -> None:
    folder = train_codec(tmp_path / "codec", text_model, "noise=0.5")
    figures = json.loads((folder / "run.json").read_text())["figures"]
    levels = [figures[f"accuracy_{level}"] for level in ("0", "0.25", "0.5", "0.75", "1")]
    assert levels[0] > 0.5
    assert levels[-1] < levels[0]
    assert "words that come back" in (folder / "README.md").read_text()
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.bfloat16, torch.int64}
    assert load_codec(folder).config.decoder_layers == 1

    options = {"codec": str(folder), "hidden_size": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
    caption = [*SHARED, "encoder=siglip-tiny", "tiny=true", "pretrained=false", "decoder=ladic", "train_size=32"]
    caption += [
        f"decoder_options={json.dumps(options)}",
        f"output_dir={tmp_path / 'run'}",
        "tokenizer=" + str(text_model),
    ]
    caption += ["steps=4", "eval_every=4", "val_size=4", "batch_size=4", "ema_decay=0.9", "log_every=2"]
    caption += ["parts.others={decoder.codec: {mode: frozen}}", "validation_options={num_inference_steps: 2}"]
    made = run_caption(load_config(CaptionConfig, None, caption))
    record = json.loads((made / "run.json").read_text())
    frozen = sum(p.numel() for p in load_codec(folder).parameters())
    assert record["parameters"]["decoder_frozen"] == frozen
    embeddings = (40 + load_codec(folder).config.vocab_size) * 16  # positions and words are not in the budget
    assert record["parameters"]["decoder_budget"] + frozen + embeddings == record["parameters"]["decoder"]
    assert all(entry["loss"] > 0 for entry in read_log(made / "training.jsonl") if "loss" in entry)
    own, before = Captioner.from_pretrained(made).decoder.codec, load_codec(folder)
    assert torch.equal(own.mean, before.mean.float())
    assert torch.equal(own.upper[0].output.dense.weight, before.upper[0].output.dense.weight.float())


def test_latents_are_cached_where_captions_are_read_again(text_model: Path) -> None:
    tokenizer, captions = load_tokenizer(text_model), [["two red drums", "a dog"], ["a dog", "a drum"]]
    codec = LatentCodec.create(tokenizer, captions[0], text_model=text_model)
    spec = create_encoder("siglip-tiny", tiny=True, seed=0).spec
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "cross_entropy_weight": 0.0}
    decoder = create_decoder("ladic", spec, tokenizer, codec=codec, **sizes).eval()
    bank, chosen = CaptionBank(captions, tokenizer, max_length=32), np.array([3, 0])

    def batch(*overrides: str) -> dict[str, torch.Tensor]:
        config = load_config(CaptionConfig, None, [*SHARED, "batch_size=2", *overrides])
        return caption_inputs(config, decoder, bank)(chosen)

    once, again = batch("steps=1"), batch("steps=2")  # two captions a step; there are three
    assert once.keys() == batch("steps=2", "cache_features=false").keys() == again.keys() - {"latents"}
    vision = torch.randn(2, spec.n_tokens, spec.dim)
    with torch.no_grad():
        assert float(decoder(vision, **once).loss) == pytest.approx(float(decoder(vision, **again).loss), abs=1e-3)


def test_a_codec_that_loses_words_stops_the_run(tmp_path: Path, text_model: Path) -> None:
    with pytest.raises(CheckpointError, match="of the words survive the round trip"):
        train_codec(tmp_path / "codec", text_model, "steps=1", "eval_every=1", "least_accuracy=0.98")
    assert not (tmp_path / "codec" / "config.json").exists()


def test_the_random_text_model_and_the_split_are_options(tmp_path: Path, text_model: Path) -> None:
    short = ["steps=1", "eval_every=1", "random_text_model=true", "split_layer=1", "decoder_layers=0"]
    config = load_codec(train_codec(tmp_path / "codec", text_model, *short, "normalize=false")).config
    assert (config.random_seed, config.split_layer, config.decoder_layers, config.normalize) == (0, 1, 0, False)


def test_the_papers_configuration_has_the_papers_size() -> None:
    config = load_config(CaptionConfig, find_config("caption_ladic_paper"))
    options = dict(config.decoder_options)
    codec = LatentCodecConfig(text_config=BertConfig(), split_layer=6, decoder_layers=6)
    chosen = {**preset(options.pop("preset")), **options}
    chosen.pop("codec")
    with torch.device("meta"):
        decoder = LadicDecoder(LadicConfig(codec_config=codec, vision_dim=768, max_length=24, **chosen))
    # 12 layers of 1536 with cross-attention to tokens of the same width: the release's 312 M read 768-wide tokens.
    assert 300e6 < sum(p.numel() for p in decoder.denoiser.parameters()) < 370e6
    assert decoder.denoiser.hidden_size == 2 * decoder.codec.latent_dim
    assert config.lr == 5e-5
    load_config(LadicCodecConfig, find_config("ladic_codec_paper"))
    load_config(LadicCodecConfig, find_config("ladic_codec_embedded"))
    load_config(CaptionConfig, find_config("caption_ladic_embedded"))
