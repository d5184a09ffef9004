from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from vislex.decoders.infill import WordPieces
from vislex.text import encode_captions, load_tokenizer, prune_tokenizer
from vislex.training.fill_in_middle import FillInMiddle

CAPTIONS = ["a red dog, left of two unfathomable kites.", "a drum"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return prune_tokenizer(load_tokenizer(), CAPTIONS)[0]


def blanks(tokenizer: PreTrainedTokenizerFast, share: float, max_length: int = 40) -> FillInMiddle:
    special = {"blank": tokenizer.mask_token_id, "end": tokenizer.sep_token_id, "pad": tokenizer.pad_token_id}
    return FillInMiddle(share, WordPieces.of(tokenizer), **special, max_length=max_length)


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def test_the_fillers_make_the_caption_again_and_only_they_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = blanks(tokenizer, 1.0)(encode_captions(tokenizer, CAPTIONS * 20), generators(40))
    counts = set()
    for row, (ids, mask, labels) in enumerate(zip(*(batch[name].tolist() for name in batch), strict=True)):
        given = next(i for i, label in enumerate(labels) if label != -100)
        assert labels[given : sum(mask)] == ids[given : sum(mask)]
        assert set(labels[sum(mask) :]) <= {-100}
        template = tokenizer.decode(ids[: given - 1], skip_special_tokens=False).split("[MASK]")
        said = tokenizer.decode(ids[given : sum(mask) - 1], skip_special_tokens=False).split("[MASK]")
        assert ids[given - 1] == ids[sum(mask) - 1] == tokenizer.sep_token_id
        caption = "".join(a + b for a, b in zip(template, [*said, ""], strict=True)).removeprefix("[CLS]")
        plain = tokenizer.decode(tokenizer(CAPTIONS[row % 2], add_special_tokens=False)["input_ids"])
        assert caption.replace(" ", "") == plain.replace(" ", "")
        counts.add(len(said))
    assert counts == {1, 2, 3}


def test_the_share_is_kept_and_draws_repeat(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = encode_captions(tokenizer, CAPTIONS[:1] * 400)
    batch = blanks(tokenizer, 0.25)(plain, generators(400))
    changed = (batch["labels"][:, 0] == -100).float().mean()
    assert 0.18 < changed < 0.32
    again = blanks(tokenizer, 0.25)(plain, generators(400))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    none = blanks(tokenizer, 0.0)(plain, generators(400))
    assert all(torch.equal(none[name], plain[name]) for name in plain)


def test_what_would_be_too_long_stays_a_caption(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = encode_captions(tokenizer, CAPTIONS)
    length = int(plain["attention_mask"][0].sum())
    batch = blanks(tokenizer, 1.0, max_length=length)(plain, generators(2))
    assert batch["labels"][:, 0].tolist() == [tokenizer.cls_token_id, -100]
