"""Several candidates an image and the trace of a caption, as every decoder offers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vislex.decoders.base import CaptionDecoder
from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.mbr import consensus
from vislex.decoders.trace import HIDDEN, TraceStep, caption_steps
from vislex.errors import ConfigError
from vislex.specs import VisionTokens

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()
DRAWN: dict[str, dict[str, Any]] = {
    "cross_attention": {"do_sample": True},
    "prefix": {"do_sample": True},
    "masked": {"do_sample": True, "num_inference_steps": 3},
    "ladic": {"num_inference_steps": 3, "length": 12},
}


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def decoders(make_decoder: Callable[..., CaptionDecoder], codec: LatentCodec) -> dict[str, CaptionDecoder]:
    return {name: make_decoder(name, **({"codec": codec} if name == "ladic" else {})) for name in DRAWN}


def rows(ids: torch.Tensor, pad: int = 0) -> list[list[int]]:
    return [[token for token in row if token != pad] for row in ids.tolist()]


@pytest.mark.parametrize("name", DRAWN)
def test_the_candidate_that_agrees_most_is_taken(decoders: dict[str, CaptionDecoder], name: str) -> None:
    decoder, options = decoders[name], DRAWN[name]
    mine = torch.tensor([4, 0, 7])
    encoded = []
    handle = decoder.projection.register_forward_hook(lambda *_: encoded.append(1))
    chosen = decoder.generate(vision_tokens=tokens(), num_candidates=4, indices=mine, **options)
    handle.remove()
    assert len(encoded) == 1
    evaluations = decoder.evaluations
    for row in range(3):
        alone = tokens()[row : row + 1]
        again = decoder.generate(vision_tokens=alone, num_candidates=4, indices=mine[row : row + 1], **options)
        assert rows(again) == rows(chosen[row : row + 1])
        assert int(decoder.evaluations) == int(evaluations[row])
    # One candidate is the first of several.
    first = decoder.generate(vision_tokens=tokens(), indices=mine, **options)
    assert (decoder.evaluations < evaluations).all()
    other = decoder.generate(vision_tokens=tokens(), indices=mine + 1, **options)
    assert rows(first) != rows(other)
    assert rows(first) != rows(decoder.generate(vision_tokens=tokens(), indices=mine, seed=1, **options))
    assert rows(first) == rows(decoder.generate(vision_tokens=tokens(), indices=mine, seed=0, **options))
    with pytest.raises(ConfigError, match="num_candidates=0 must be at least 1"):
        decoder.generate(vision_tokens=tokens(), num_candidates=0, **options)


@pytest.mark.parametrize("name", ["cross_attention", "prefix"])
def test_candidates_are_the_sampled_captions(decoders: dict[str, CaptionDecoder], name: str) -> None:
    decoder = decoders[name]
    drawn = decoder.generate(vision_tokens=tokens(), do_sample=True, num_return_sequences=5)
    assert drawn.shape[0] == 15
    each = decoder.evaluations
    chosen = decoder.generate(vision_tokens=tokens(), do_sample=True, num_candidates=5)
    assert torch.equal(decoder.evaluations, each.view(3, 5).sum(1))
    assert rows(chosen) == rows(drawn[consensus(drawn, 5, special_ids=decoder.special_ids)])


@pytest.mark.parametrize("name", ["cross_attention", "prefix", "masked"])
def test_candidates_that_are_not_drawn_are_refused(decoders: dict[str, CaptionDecoder], name: str) -> None:
    with pytest.raises(ConfigError, match=r"num_candidates=2 without .* the same caption; add do_sample=True"):
        decoders[name].generate(vision_tokens=tokens(), num_candidates=2)


@pytest.mark.parametrize("name", ["cross_attention", "prefix"])
def test_options_of_draws(decoders: dict[str, CaptionDecoder], name: str) -> None:
    decoder = decoders[name]

    def written(**options: Any) -> list[list[int]]:
        return rows(decoder.generate(vision_tokens=tokens(), min_new_tokens=8, **options))

    greedy = written()
    for option in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0 - 1e-6}, {"temperature": 1e-4}):
        assert written(do_sample=True, **option) == greedy
    assert written(do_sample=True) != greedy
    assert written(do_sample=True, temperature=1.5) != written(do_sample=True)
    for wrong, message in (
        ({"temperature": 0.5}, "temperature=0.5 changes draws, and nothing is drawn"),
        ({"do_sample": True, "num_beams": 2}, "beams are searched"),
        ({"do_sample": True, "typical_p": 0.5}, "draws know no typical_p"),
        ({"do_sample": True, "num_candidates": 2, "num_return_sequences": 2}, "leave one out"),
    ):
        with pytest.raises(ConfigError, match=message):
            written(**wrong)


def test_draws_follow_the_probabilities(decoders: dict[str, CaptionDecoder]) -> None:
    decoder = decoders["cross_attention"]
    n = 4000
    vision = tokens(1)
    first = torch.full((1, 1), decoder.config.bos_token_id)
    p = decoder(vision, first).logits[0, 0].div(2).softmax(-1)
    drawn = decoder.generate(
        vision_tokens=vision, do_sample=True, temperature=2.0, max_new_tokens=1, num_return_sequences=n
    )
    share = torch.bincount(drawn[:, 1], minlength=len(p)) / n
    torch.testing.assert_close(share, p.detach(), atol=0.03, rtol=0)


@pytest.mark.parametrize("mask", [None, MASK])
def test_both_loops_draw_the_same(decoders: dict[str, CaptionDecoder], mask: torch.Tensor | None) -> None:
    decoder = decoders["cross_attention"]
    options = {"do_sample": True, "num_candidates": 3, "temperature": 1.2, "min_new_tokens": 5}
    vision = VisionTokens(tokens(), mask)
    fast = decoder.generate(vision_tokens=vision, **options)
    assert rows(fast) == rows(decoder.generate(vision_tokens=vision, use_cache=False, **options))


@pytest.mark.parametrize("name", DRAWN)
def test_a_trace_tells_how_the_caption_came_about(decoders: dict[str, CaptionDecoder], name: str) -> None:
    decoder, options = decoders[name], DRAWN[name]
    for count in (1, 3):
        made = decoder.generate(vision_tokens=tokens(), num_candidates=count, trace=True, **options)
        traces = decoder.trace
        assert len(traces) == 3
        for ids, steps in zip(made, traces, strict=True):
            assert rows(steps[-1].ids[None]) == rows(ids[None])
            times = [step.time for step in steps]
            assert times == sorted(times, reverse=True)
            assert times[-1] == 0
            assert 0 < times[0] < 1
        if count == 1:
            assert [len(steps) for steps in traces] == decoder.evaluations.tolist()
        row = decoder.generate(vision_tokens=tokens()[1:2], num_candidates=count, indices=torch.tensor([1]), trace=True,
                               **options)  # fmt: skip
        assert [rows(step.ids[None]) for step in decoder.trace[0]] == [rows(step.ids[None]) for step in traces[1]]
        assert row.shape[0] == 1
    decoder.generate(vision_tokens=tokens(), **options)
    assert decoder.trace is None


def test_the_trace_of_masked_words_shows_them_hidden(decoders: dict[str, CaptionDecoder]) -> None:
    decoder = decoders["masked"]
    fixed = {"min_new_tokens": 9, "max_new_tokens": 9}
    decoder.generate(vision_tokens=tokens(), num_inference_steps=4, trace=True, num_lengths=1, **fixed)
    for steps in decoder.trace:
        hidden = [int((step.ids == decoder.config.mask_token_id).sum()) for step in steps]
        assert hidden == [6, 4, 2, 0]
        assert [step.time for step in steps] == [0.75, 0.5, 0.25, 0.0]


def test_steps_in_words(tokenizer: Any) -> None:
    vocabulary = tokenizer.get_vocab()
    pieces = tokenizer.tokenize("two unfathomable kites")
    n = len(pieces)
    inner = [piece.startswith("##") for piece in pieces]
    assert inner[:2] == [False, False]
    n_kites = n - 1 - max(place for place in range(n) if not inner[place]) + 1
    special = {"cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id, "pad": tokenizer.pad_token_id}
    mask = len(tokenizer) if tokenizer.mask_token_id is None else tokenizer.mask_token_id

    def step(words: list[str | None], time: float) -> TraceStep:
        ids = [mask if word is None else vocabulary[word] for word in words]
        return TraceStep(torch.tensor([special["cls"], *ids, special["sep"], special["pad"]]), time)

    empty, middle = [None] * n, [pieces[0], pieces[1], *[None] * (n - 2)]
    other = ["a", *pieces[1:]]
    steps = caption_steps([step(empty, 1.0), step(middle, 0.6), step(pieces, 0.1), step(other, 0.0)], tokenizer)
    assert [one.time for one in steps] == [1.0, 0.6, 0.1, 0.0]
    assert steps[0].words == (HIDDEN,) * n
    assert not any(steps[0].changed)
    assert steps[1].words[0] == "two"
    assert steps[1].changed == (True, True, *[False] * (n - 2))
    assert steps[2].words == ("two", "unfathomable", "kites")
    assert steps[2].pieces == (1, n - 1 - n_kites, n_kites)
    assert steps[2].changed == (False, True, True)
    assert steps[3].words[0] == "a"
    assert steps[3].changed == (True, False, False)
    assert all(sum(one.pieces) == n for one in steps)
