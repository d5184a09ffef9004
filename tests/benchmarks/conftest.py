"""Real parts at a tiny size: a dozen drawings, and captioners with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.results import ModelInfo, Results, Run, content_key
from vislex.captioner import Captioner
from vislex.decoders.ladic.codec import LatentCodec
from vislex.encoders.factory import create_encoder
from vislex.text import load_tokenizer, prune_tokenizer


@pytest.fixture(scope="session")
def data() -> CaptionData:
    return load_suite_captions("openmoji", split="test_composition", size=12, image_size=32, n_images=4, n_train=20)


@pytest.fixture(scope="session")
def captioner_folder(data: CaptionData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    texts = [text for references in data.record.references.values() for text in references]
    captioner = Captioner.from_parts(
        encoder=create_encoder("siglip-tiny", tiny=True),
        decoder="prefix",
        tokenizer=prune_tokenizer(load_tokenizer(), texts)[0],
        hidden_size=32,
        num_layers=1,
        num_heads=2,
    )
    folder = tmp_path_factory.mktemp("captioner") / "tiny"
    captioner.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ladic_folder(data: CaptionData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained LaDiC captioner whose latents are those of a BERT of two layers of width 16."""
    torch.manual_seed(0)
    texts = [text for references in data.record.references.values() for text in references]
    tokenizer = prune_tokenizer(load_tokenizer(), [*texts, "."])[0]
    folder = tmp_path_factory.mktemp("ladic")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    captioner = Captioner.from_parts(
        encoder=create_encoder("siglip-tiny", tiny=True),
        decoder="ladic",
        tokenizer=tokenizer,
        codec=LatentCodec.create(tokenizer, texts, text_model=folder / "bert"),
        hidden_size=32,
        num_layers=1,
        num_heads=2,
    )
    captioner.save_pretrained(folder / "tiny")
    return folder / "tiny"


def made_run(data: CaptionData, row: str, shift: float, *, seed: int | None = 0, **info: object) -> Run:
    """A run with made-up scores: noise that all rows of a seed share, and a shift of their own."""
    noise = np.random.default_rng(seed).uniform(0, 1, len(data))
    own = np.random.default_rng(int(1000 * shift) + 7).normal(0, 0.05, len(data))
    scores = np.clip(noise + shift + own, 0, 10)
    captions = [data.record.references[identity][0] + (" now" if shift > 0.3 else "") for identity in data.record.ids]
    return Run(
        key=content_key({"row": row, "seed": seed}),
        task="captioning",
        model=ModelInfo(row=row, seed=seed, **{"origin": "trained live", **info}),
        data=data.record.key,
        provenance={"command": "vislex compare", "time": "2026-01-01T00:00:00+00:00"},
        n=len(data),
        scores={"CIDEr-D": float(scores.mean()), "BLEU-4": 0.2},
        per_image={"CIDEr-D": scores.tolist()},
        captions=captions,
    )


@pytest.fixture
def results(data: CaptionData) -> Results:
    """Two seeds of an encoder and its control, and a floor."""
    made = Results()
    for seed in (0, 1):
        for name, shift in (("enc", 0.5), ("enc@untrained", 0.1)):
            run = made_run(data, f"{name} + prefix", shift, seed=seed, encoder=name, decoder="prefix")
            made.add(run, data.record)
    made.add(made_run(data, "floor: one caption for all", 0.0, seed=None, origin="floor"))
    return made
