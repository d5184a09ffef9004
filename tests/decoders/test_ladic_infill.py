"""Blanks filled by denoising: given words stay, and the others are read from the last prediction of their latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from vislex.decoders.factory import create_decoder
from vislex.decoders.infill import Filled, parse_template
from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.specs import EncoderSpec

TEMPLATES = ["a ___ on a ___ cat", "___ ___ kites", "two unfathomable ___"]


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def make(spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast, codec: LatentCodec) -> Callable[..., LadicDecoder]:
    def build(**options: object) -> LadicDecoder:
        torch.manual_seed(0)
        sizes = {"num_layers": 1, "num_heads": 4, "max_length": 20, "dropout": 0.0, "intermediate_size": 32}
        decoder = create_decoder("ladic", spec, tokenizer, codec=codec, **{**sizes, **options}).eval()
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                if parameter.ndim > 1 and not name.startswith("codec."):
                    parameter.normal_(std=0.2)
        return decoder

    return build


def fill(decoder: LadicDecoder, tokenizer: object, texts: list[str], **options: object) -> list[Filled]:
    vision = options.pop("vision", tokens(len(texts)))
    parsed = [parse_template(text, tokenizer) for text in texts]
    return decoder.infill(vision, parsed, num_inference_steps=2, **options)


def test_given_words_stay_and_blanks_hold_one_word(make: Callable, tokenizer: PreTrainedTokenizerFast) -> None:
    for options in ({"guidance_scale": 0.0}, {"guidance_scale": 1.0, "refine_at": 0.5, "refine_steps": 1}):
        for filled in fill(make(), tokenizer, TEMPLATES, **options):
            template = filled.template
            for filler in filled.fillers:
                assert 1 <= len(filler) <= 3
                assert all(template.pieces.allowed[template.kind(i), piece] for i, piece in enumerate(filler))
            assert len(filled.ids) == template.length([len(filler) for filler in filled.fillers])


def test_a_batch_equals_its_singles_and_evaluations_are_counted(make: Callable, tokenizer: object) -> None:
    decoder = make(length_bucket=4)
    together = fill(decoder, tokenizer, TEMPLATES, guidance_scale=0.0)
    counts = decoder.evaluations.tolist()
    for row in range(3):
        vision = tokens()[row : row + 1]
        alone = fill(
            decoder, tokenizer, TEMPLATES[row : row + 1], vision=vision, indices=torch.tensor([row]), guidance_scale=0.0
        )[0]
        assert alone.fillers == together[row].fillers
        assert decoder.evaluations.tolist() == [counts[row]]
    assert counts[2] == 2 * 3  # three lengths of one blank, two steps each


def test_the_given_words_are_known_to_the_loop(make: Callable, tokenizer: PreTrainedTokenizerFast) -> None:
    """A blank of one piece is the likeliest word of the sample whose other words are known."""
    decoder = make()
    template = replace(parse_template("a ___ on a red cat", tokenizer), lengths=((1,),))
    filled = decoder.infill(tokens(1), [template], num_inference_steps=2, guidance_scale=0.0)[0]
    other = replace(parse_template("two ___ unfathomable kites", tokenizer), lengths=((1,),))
    second = decoder.infill(tokens(1), [other], num_inference_steps=2, guidance_scale=0.0)[0]
    assert filled.log_likelihood != second.log_likelihood
    seen = {}
    read = decoder.codec.decode

    def watch(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        seen["logits"] = read(latents, *rest)
        return seen["logits"]

    decoder.codec.decode = watch
    again = decoder.infill(tokens(1), [template], num_inference_steps=2, guidance_scale=0.0)[0]
    del decoder.codec.decode
    words = seen["logits"][0, 2].masked_fill(~template.pieces.allowed[0], -torch.inf)
    assert again.fillers == filled.fillers == ((int(words.argmax()),),)


def test_a_seed_and_a_number_give_the_noise(make: Callable, tokenizer: object) -> None:
    decoder, text = make(), ["a ___ on a red cat"] * 4
    vision = tokens(1).expand(4, -1, -1)
    first = fill(decoder, tokenizer, text, vision=vision, guidance_scale=0.0)
    assert len({filled.log_likelihood for filled in first}) > 1
    same = fill(decoder, tokenizer, text, vision=vision, guidance_scale=0.0, indices=torch.zeros(4, dtype=torch.long))
    assert len({round(filled.log_likelihood, 3) for filled in same}) == 1
