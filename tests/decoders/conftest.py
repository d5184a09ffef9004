"""Tiny decoders with weights large enough that their captions depend on the image and differ from word to word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from vislex.decoders.base import CaptionDecoder
from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.specs import EncoderSpec
from vislex.text import load_tokenizer, prune_tokenizer

CORPUS = ["a red dog left of a blue cat.", "two unfathomable kites on a green background", "three rabbits and a drum"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return prune_tokenizer(load_tokenizer(), CORPUS)[0]


@pytest.fixture(scope="session")
def spec() -> EncoderSpec:
    return EncoderSpec(dim=24, grid=None, n_tokens=6, image_size=(8, 12), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="session")
def make_decoder(spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast) -> Callable[..., CaptionDecoder]:
    def make(name: str, **options: object) -> CaptionDecoder:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_length": 16}
        decoder = create_decoder(name, options.pop("spec", spec), tokenizer, **{**sizes, **options}).eval()
        with torch.no_grad():
            for parameter in decoder.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
        return decoder

    return make


@pytest.fixture(params=["cross_attention", "prefix"])
def decoder(request: pytest.FixtureRequest, make_decoder: Callable[..., CaptionDecoder]) -> CaptionDecoder:
    return make_decoder(request.param)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT of four layers of width 16 with a head, and MiniLM's tokenizer pruned to the corpus."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    pruned = prune_tokenizer(load_tokenizer(), [*CORPUS, "."])[0]
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(pruned), max_position_embeddings=32, initializer_range=0.4, **sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    pruned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def codec(tiny_bert: Path, tokenizer: PreTrainedTokenizerFast) -> LatentCodec:
    """An untrained codec of that BERT for the tokenizer without full stops."""
    own = load_tokenizer(tiny_bert)
    index = torch.tensor([own.get_vocab()[p] for p in sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)])
    return LatentCodec.create(tokenizer, CORPUS, text_model=tiny_bert, token_index=index)


@pytest.fixture(scope="session")
def make_ladic(
    spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast, codec: LatentCodec
) -> Callable[..., LadicDecoder]:
    """Builds a LaDiC of a preset with weights large enough that the image and the words matter."""

    def build(preset: str = "fast", **options: Any) -> LadicDecoder:
        torch.manual_seed(0)
        sizes = {"num_layers": 2, "num_heads": 4, "max_length": 16, "dropout": 0.0, "intermediate_size": 32}
        own = options.pop("spec", spec)
        decoder = create_decoder("ladic", own, tokenizer, preset=preset, codec=codec, **{**sizes, **options}).eval()
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                if parameter.ndim > 1 and not name.startswith("codec."):
                    parameter.normal_(std=0.2 if preset == "fast" else 0.7)
        return decoder

    return build
