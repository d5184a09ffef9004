from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from vislex.errors import CheckpointError, ConfigError
from vislex.text import encode_captions, load_tokenizer, postprocess_caption, prune_tokenizer, special_tokens

CORPUS = ["A red dog, left of two unfathomable kites.", "the zookeeper's bassoon", "rabbits rabbit"]
WORDS = sorted({word for text in CORPUS for word in text.split()})


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerFast:
    return load_tokenizer("minilm")


@pytest.fixture(scope="module")
def pruned(minilm: PreTrainedTokenizerFast) -> tuple[PreTrainedTokenizerFast, torch.Tensor]:
    return prune_tokenizer(minilm, CORPUS)


def test_minilm_neither_pads_nor_truncates(minilm: PreTrainedTokenizerFast) -> None:
    assert len(minilm) == 30522
    assert len(minilm("a dog")["input_ids"]) == 4
    assert len(minilm("dog " * 300)["input_ids"]) == 302


def test_a_saved_tokenizer_loads_again(minilm: PreTrainedTokenizerFast, tmp_path) -> None:
    minilm.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("two kites")["input_ids"] == minilm("two kites")["input_ids"]
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join))
def test_pruning_segments_the_words_of_the_corpus_as_before(minilm, pruned, text: str) -> None:
    small, index_map = pruned
    assert index_map[torch.tensor(small(text)["input_ids"])].tolist() == minilm(text)["input_ids"]


def test_pruning_keeps_what_occurs_and_the_special_tokens(minilm, pruned) -> None:
    small, index_map = pruned
    assert len(small) == len(index_map) < 40
    assert small.all_special_tokens == minilm.all_special_tokens
    assert special_tokens(small).pad == 0
    assert small.decode(small("a red dog")["input_ids"], skip_special_tokens=True) == "a red dog"
    assert small.unk_token_id in small("xylophone")["input_ids"]
    assert index_map.dtype == torch.int64


def test_only_wordpiece_can_be_pruned() -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])), eos_token="a")
    with pytest.raises(ConfigError, match="WordPiece"):
        prune_tokenizer(other, ["a"])


def test_captions_begin_end_and_pad(minilm: PreTrainedTokenizerFast) -> None:
    batch = encode_captions(minilm, ["a dog", "a red dog", "dog " * 50], max_length=8)
    assert batch["input_ids"].shape == (3, 8)
    assert batch["input_ids"][0].tolist()[:4] == minilm("a dog")["input_ids"]
    assert batch["attention_mask"].sum(1).tolist() == [4, 5, 8]
    assert (batch["labels"][0, 4:] == -100).all()
    assert batch["labels"][2].tolist() == batch["input_ids"][2].tolist()
    assert batch["input_ids"][2, -1] == minilm.sep_token_id


def test_a_causal_tokenizer_needs_an_end() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "<e>": 1}, [])))
    with pytest.raises(ConfigError, match="eos_token"):
        special_tokens(tokenizer)
    tokenizer.eos_token = "<e>"
    assert special_tokens(tokenizer) == (1, 1, 1)
    assert encode_captions(tokenizer, ["a"])["input_ids"].tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog dog and a cat . . .", "a dog and a cat"),
        ("a  dog , left of a cat", "a dog, left of a cat"),
        ("", ""),
        ("had had", "had"),
        ("a medium - sized t - shirt", "a medium-sized t-shirt"),
    ],
)
def test_captions_are_cleaned_in_one_way(text: str, expected: str) -> None:
    assert postprocess_caption(text) == expected
    assert postprocess_caption(expected) == expected
