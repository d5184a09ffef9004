"""Small vision-language models with weights large enough that images and words matter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.vlm import VisionLanguageModel
from vislex.text import load_tokenizer, prune_tokenizer

WORDS = "what is left of the red dog? how many kites are there? two a yes no describe blue"


def picture(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def chat() -> PreTrainedTokenizerFast:
    return chat_tokenizer(prune_tokenizer(load_tokenizer(), [WORDS])[0])


@pytest.fixture(scope="session")
def make_vlm(chat: PreTrainedTokenizerFast) -> Callable[..., VisionLanguageModel]:
    """Builds a tiny model; keywords are names of parts and options of ``from_parts``."""

    def make(
        llm: str = "llama3.2-1b", encoder: str = "siglip-tiny", connector: str = "mlp", **options: Any
    ) -> VisionLanguageModel:
        torch.manual_seed(0)
        language_model = vislex.create_llm(llm, tiny=True, vocab_size=len(chat))
        with torch.no_grad():
            for name, parameter in language_model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.05 if "embed" in name else 0.2)
        model = VisionLanguageModel.from_parts(
            encoder=vislex.create_encoder(encoder, tiny=True, seed=0),
            connector=connector,
            llm=language_model,
            tokenizer=copy.deepcopy(chat),
            **options,
        )
        return model.eval()

    return make
