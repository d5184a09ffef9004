"""Masks read from how sure a model was of the codes that it wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vislex
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_ask import write
from vislex.adapters.vlm_read import read_masks
from vislex.adapters.vlm_segment import codec_of, prepare_codec
from vislex.segmentation.loc_seg import LocSegCodec

EXPRESSIONS = ["the red dog", "blue"]  # prompts of two lengths: one is padded
CODES = 16


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def vlm(make_vlm: Callable[..., VisionLanguageModel]) -> VisionLanguageModel:
    model = make_vlm()
    prepare_codec(model, "loc_seg")
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.3)  # some codes are likelier than others
    return model.eval()


def only_masks(model: VisionLanguageModel, objects: int = 1) -> Callable[[int, torch.Tensor], list[int]]:
    """Lets a model write whole boxes, with the codes that it likes best."""
    tokenizer, codec = model.processor.tokenizer, codec_of(model)
    assert isinstance(codec, LocSegCodec)
    corners = tokenizer.convert_tokens_to_ids(["<loc0000>", "<loc0000>", "<loc1023>", "<loc1023>"])
    codes = tokenizer.convert_tokens_to_ids(list(codec.code_tokens))
    order = ([[own] for own in corners] + [codes] * CODES) * objects + [[tokenizer.eos_token_id]]
    known = {*corners, *codes}
    return lambda _, ids: order[min(sum(int(own) in known for own in ids), len(order) - 1)]


def segment(model: VisionLanguageModel, **options: Any) -> list[Any]:
    allowed = only_masks(model)
    return model.segment([picture(0), picture(1)], EXPRESSIONS, prefix_allowed_tokens_fn=allowed, **options)


def test_the_mask_is_that_of_the_expected_codes(vlm: VisionLanguageModel) -> None:
    codec = codec_of(vlm)
    assert isinstance(codec, LocSegCodec)
    tokens = torch.tensor(vlm.processor.tokenizer.convert_tokens_to_ids(list(codec.code_tokens)))
    for i, (found, hard) in enumerate(zip(segment(vlm), segment(vlm, codec=LocSegCodec(soft=False)), strict=True)):
        assert found.text == hard.text
        assert found.decoded.segments[0].box == (0, 0, 20, 30)
        assert np.array_equal(hard.mask, LocSegCodec().decode(found.text, (20, 30)).mask)
        assert not np.array_equal(found.mask, hard.mask)
        inputs = vlm.processor([[picture(i)]], [vlm.processor.prompt(f"segment {EXPRESSIONS[i]}", 1)])
        asked = {"max_new_tokens": 30, "prefix_allowed_tokens_fn": only_masks(vlm), "output_scores": True}
        made = vlm.generate(**inputs, **asked, return_dict_in_generate=True)
        likely = torch.stack([scores[0, tokens].softmax(-1) for scores in made.scores[4 : 4 + CODES]])
        assert np.array_equal(found.mask, codec.decode(found.text, (20, 30), likely.numpy()).mask)


def test_answers_of_a_batch_are_read_as_alone(vlm: VisionLanguageModel) -> None:
    together, alone = segment(vlm), segment(vlm, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.mask, other.mask)


def test_the_threshold_is_an_option_of_the_codec(vlm: VisionLanguageModel) -> None:
    few, many = (segment(vlm, codec=LocSegCodec(threshold=own))[0].mask for own in (0.6, 0.1))
    assert few.sum() < many.sum()
    assert not (few & ~many).any()


def test_words_two_objects_and_other_models_are_read_too(vlm: VisionLanguageModel) -> None:
    codec = codec_of(vlm)
    (plain,) = vlm.segment(picture(0), "blue", max_new_tokens=3)
    assert plain.invalid is not None
    pairs = [([picture(i)], f"segment {own}") for i, own in enumerate(EXPRESSIONS)]
    short = only_masks(vlm)
    (batch,) = write(vlm, pairs, max_new_tokens=12, prefix_allowed_tokens_fn=short)  # cut off within the codes
    texts = [answer.text for answer in batch.answers]
    cut = read_masks(vlm, codec, batch.inputs, batch.ids, texts, [(20, 30)] * 2)
    assert all("segmentation tokens behind the box" in (own.invalid or "") for own in cut)
    (batch,) = write(vlm, pairs, max_new_tokens=30, prefix_allowed_tokens_fn=short)
    texts = [answer.text for answer in batch.answers]
    read = read_masks(vlm.llm, codec, batch.inputs, batch.ids, texts, [(20, 30)] * 2)  # a model that is none of ours
    assert [own.mask.tolist() for own in read] == [codec.decode(text, (20, 30)).mask.tolist() for text in texts]


def test_the_codec_of_a_model_keeps_its_options(make_vlm: Callable[..., VisionLanguageModel]) -> None:
    model = make_vlm()
    prepare_codec(model, "loc_seg", soft=False)
    codec = codec_of(model)
    assert isinstance(codec, LocSegCodec)
    assert not codec.soft
    assert codec.reading == {}
    assert vislex.create_codec("loc_seg", threshold=0.4).reading == {"soft": True, "threshold": 0.4}
