"""Cached latents of captions: those of the text encoder, whatever a caption was padded to, and the same loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.specs import EncoderSpec
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.captions import CaptionBank
from vislex.training.latents import cached_latents

REFERENCES = [
    ["a red dog", "two unfathomable kites on a green background", "a drum"],
    ["a drum", "a red dog left of a blue cat"],
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return prune_tokenizer(load_tokenizer(), [".", *(text for own in REFERENCES for text in own)])[0]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), initializer_range=0.4, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def codec(tokenizer: PreTrainedTokenizerFast, text_model: Path, **options: int) -> LatentCodec:
    captions = [text for own in REFERENCES for text in own]
    return LatentCodec.create(tokenizer, captions, text_model=text_model, **options)


@pytest.fixture
def decoder(tokenizer: PreTrainedTokenizerFast, text_model: Path) -> LadicDecoder:
    spec = EncoderSpec(dim=24, grid=None, n_tokens=6, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 16}
    own = codec(tokenizer, text_model)
    made = create_decoder("ladic", spec, tokenizer, codec=own, cross_entropy_weight=0.0, **sizes)
    assert isinstance(made, LadicDecoder)
    return made.eval()


@pytest.fixture
def bank(tokenizer: PreTrainedTokenizerFast) -> CaptionBank:
    return CaptionBank(REFERENCES, tokenizer, max_length=16)


def test_latents_are_the_text_encoders_whatever_the_padding(
    decoder: LadicDecoder, bank: CaptionBank, tmp_path: Path
) -> None:
    first = cached_latents(decoder.codec, bank, cache_dir=tmp_path, batch_size=2)
    store = cached_latents(decoder.codec, bank, cache_dir=tmp_path)
    assert (first.was_cached, store.was_cached) == (False, True)
    assert len(store.array) == (bank.lengths[[0, 1, 2, 4]] - 2).sum()  # "a drum" once, and no special token
    longest = int(bank.lengths.max())
    for width in (longest, 16):
        ids = torch.from_numpy(bank.input_ids[:, :width])
        direct = decoder.codec.encode(ids, (ids != decoder.config.pad_token_id).long())
        is_word = ~decoder.codec.is_special(ids)
        cached = torch.nn.functional.pad(store.latents(np.arange(5)).float(), (0, 0, 0, width - longest))
        torch.testing.assert_close(cached[is_word], direct[is_word], atol=2e-3, rtol=1e-3)
        assert not cached[~is_word].any()


@torch.no_grad()
def test_the_loss_is_that_without_a_cache(decoder: LadicDecoder, bank: CaptionBank, tmp_path: Path) -> None:
    store = cached_latents(decoder.codec, bank, cache_dir=tmp_path)
    vision = torch.randn(3, 6, 24)
    for chosen in (np.array([1, 0, 3]), np.array([2, 0, 3])):
        latents = store.latents(chosen)
        plain = decoder(vision, **bank.batch(chosen)).loss
        cached = decoder(vision, **bank.batch(chosen), latents=latents).loss
        other = decoder(vision, **bank.batch(chosen), latents=2 * latents).loss
        assert float(cached) == pytest.approx(float(plain), abs=1e-3)
        assert float(other) != pytest.approx(float(plain), abs=1e-2)


def test_everything_that_matters_changes_the_key(
    tokenizer: PreTrainedTokenizerFast, text_model: Path, bank: CaptionBank, tmp_path: Path
) -> None:
    first = codec(tokenizer, text_model)
    others = [codec(tokenizer, text_model, split_layer=2), codec(tokenizer, text_model, random_seed=1)]
    keys = [cached_latents(own, bank, cache_dir=tmp_path).key for own in (first, *others)]
    fewer = CaptionBank(REFERENCES[:1], tokenizer, max_length=16)
    keys.append(cached_latents(first, fewer, cache_dir=tmp_path).key)
    with torch.no_grad():
        first.bias += 1  # what reads latents has no part in them
    assert cached_latents(first, bank, cache_dir=tmp_path).key == keys[0]
    first.mean += 1
    keys.append(cached_latents(first, bank, cache_dir=tmp_path).key)
    assert len(set(keys)) == 5
