"""Tiny decoders with weights large enough that their captions depend on the image and differ from word to word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from vislex.decoders.base import CaptionDecoder
from vislex.decoders.factory import create_decoder
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
