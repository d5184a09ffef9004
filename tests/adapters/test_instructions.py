"""One instruction format from all sources; loss on answers only; packed batches equal separate ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.adapters.instructions import (
    Example,
    Turn,
    caption_examples,
    from_llava,
    from_messages,
    read_llava,
    segmentation_examples,
    vqa_examples,
)
from vislex.adapters.turns import TurnBank, encode_turns
from vislex.adapters.vlm import VisionLanguageModel
from vislex.errors import ConfigError, DataError

Make = Callable[..., VisionLanguageModel]
QA = (Turn("user", "<image>how many kites?"), Turn("assistant", "two"))


def test_all_sources_give_the_same_example(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    row = {
        "id": "1",
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nhow many kites?"}, {"from": "gpt", "value": "two"}],
    }
    for name, text in (("a.json", json.dumps([row])), ("a.jsonl", json.dumps(row) + "\n")):
        (tmp_path / name).write_text(text)
        assert read_llava(tmp_path / name) == [Example(QA, (tmp_path / "a.png",))]
    parts = [{"type": "image"}, {"type": "text", "text": "how many kites?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "two"}]
    assert from_messages({"images": ["x"], "messages": messages}) == Example(QA, ("x",))
    assert from_messages({"images": ["x"], "texts": [{"user": "how many kites?", "assistant": "two"}]}) == Example(
        QA, ("x",)
    )
    assert vqa_examples({"question": "how many kites?", "answer": "two"}, "x") == [Example(QA, ("x",))]
    captions = caption_examples(["a kite", "two"], 7)
    assert [example.turns[1].content for example in captions] == ["a kite", "two"]
    assert captions[0].images == (7,)
    boxes = segmentation_examples(
        {"expression": "the red dog", "mask": np.eye(3, dtype=bool)}, "x", lambda masks: f"<loc{int(masks[0].sum())}>"
    )
    assert [turn.content for turn in boxes[0].turns] == ["<image>segment the red dog", "<loc3>"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": [{"from": "human", "value": "a?"}]}, "does not end with an answer"),
        ({"conversations": "a"}, "no list 'conversations'"),
        ({"conversations": [{"from": "alien", "value": "a?"}]}, "a turn of 'alien'"),
        ({"image": "../a.png", "conversations": [{"from": "gpt", "value": "<image>"}]}, "holds '..'"),
        ({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "b"}]}, "but 0 images"),
    ],
)
def test_damaged_rows_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        from_llava(row, tmp_path, "file, row 3")
    with pytest.raises(DataError, match="neither 'messages' nor 'texts'"):
        from_messages({"a": 1})


def test_the_loss_is_on_answers_only(chat: Any) -> None:
    turns = [*QA, Turn("user", "blue?"), Turn("assistant", "no yes")]
    ids, learned = encode_turns(chat, turns)
    answers = [i for i, own in zip(ids, learned, strict=True) if own]
    end = chat.convert_tokens_to_ids("<|end|>")
    two, no, yes = (chat.convert_tokens_to_ids(word) for word in ("two", "no", "yes"))
    assert answers == [two, end, no, yes, end]
    theirs = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    theirs += (
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"  # no {% generation %}, a newline behind each turn
    )
    ids, learned = encode_turns(chat, turns, theirs)
    assert [i for i, own in zip(ids, learned, strict=True) if own] == answers
    everything = encode_turns(chat, turns, answers_only=False)[1]
    assert everything == [False] + [True] * (len(everything) - 1)
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="writes earlier turns anew"):
        encode_turns(chat, turns, rewriting)


def test_batches_write_out_image_tokens(chat: Any) -> None:
    bank = TurnBank([QA, [Turn("user", "blue?"), Turn("assistant", "no")]], chat)
    assert bank.n_images.tolist() == [1, 0]
    assert (bank.lengths(5) - bank.lengths()).tolist() == [4, 0]
    batch = bank.batch(np.array([0, 1]), [[5], []])
    assert batch["input_ids"].shape[1] == bank.lengths(5)[0]
    assert (batch["input_ids"] == bank.image_token_id).sum(1).tolist() == [5, 0]
    assert not (batch["labels"] == bank.image_token_id).any()
    real = batch["labels"] != -100
    assert torch.equal(batch["labels"][real], batch["input_ids"][real])
    assert not (real & (batch["attention_mask"] == 0)).any()
    assert len(TurnBank([QA], chat, max_length=4).ids[0]) == 4


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_a_packed_batch_has_the_loss_of_a_padded_one(make_vlm: Make, attention: str) -> None:
    model = make_vlm(attention=attention)
    dialogues = [QA, [Turn("user", "blue?"), Turn("assistant", "no no no")], QA, QA]
    bank = TurnBank(dialogues, model.processor.tokenizer)
    chosen, counts = np.arange(4), [[4], [], [4], [4]]
    pixels = torch.randn(3, 3, 12, 12)
    padded = model(pixel_values=pixels, **bank.batch(chosen, counts))
    longest = int(bank.lengths(4).max())
    packed = bank.packed(chosen, counts, length=2 * longest)
    assert packed["input_ids"].shape == (2, 2 * longest)
    output = model(pixel_values=pixels, **packed)
    torch.testing.assert_close(output.loss, padded.loss, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="does not fit into pack_length=3"):
        bank.packed(chosen, counts, length=3)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [1]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {"texts": ["a"]},
        {"texts": [], "images": 3},
        {"texts": [], "images": "a.png"},
        {1: 2},
    ],
)
def test_rows_of_chat_data_sets_of_another_shape(row: dict[Any, Any]) -> None:
    with pytest.raises(DataError, match="a row: "):
        from_messages(row)
