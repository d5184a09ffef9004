"""Blanks: parsing, that given words stay whatever is filled in, and each way of filling against its definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from vislex.decoders.base import CaptionDecoder
from vislex.decoders.infill import Filled, FilledCanvas, Template, WordPieces, infill_by_canvas, parse_template
from vislex.decoders.left_to_right import prompt_template
from vislex.decoders.unmasking import Canvas
from vislex.errors import ConfigError, SpecError
from vislex.specs import VisionTokens
from vislex.text import load_tokenizer

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()
TEMPLATES = ["a ___ on a ___ cat", "___ ___ kites", "two unfathomable ___"]
WAYS = [
    ("masked", {}), ("masked", {"num_inference_steps": 2, "guidance_scale": 1.0}), ("masked", {"temperature": 1.0}),
    ("cross_attention", {"mode": "left_to_right"}), ("cross_attention", {"mode": "rescored", "num_candidates": 3}),
    ("prefix", {"mode": "left_to_right"}), ("prefix", {"mode": "fill_in_middle"}),
]  # fmt: skip


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def decoders(make_decoder: Callable[..., CaptionDecoder], tokenizer: PreTrainedTokenizerFast) -> dict:
    made = {name: make_decoder(name, max_length=32) for name in ("masked", "cross_attention", "prefix")}
    made["prefix"].config.blank_token_id = tokenizer.mask_token_id
    return made


def infill(decoder: CaptionDecoder, tokenizer: object, texts: list[str], **options: object) -> list[Filled]:
    lengths = options.pop("blank_lengths", None)
    vision = options.pop("vision", tokens(len(texts)))
    parsed = [parse_template(text, tokenizer, blank_lengths=lengths) for text in texts]
    return decoder.infill(vision, parsed, **options)


def test_a_template_is_given_text_and_blanks(tokenizer: PreTrainedTokenizerFast) -> None:
    template = parse_template("A red __, left of a ____.", tokenizer)
    assert template.texts == ("A red ", ", left of a ", ".")
    words = [tokenizer.convert_ids_to_tokens(list(part)) for part in template.fixed]
    assert words[0] == ["[CLS]", "a", "red"]
    assert words[2] == [".", "[SEP]"]
    assert template.lengths == ((1, 2, 3), (1, 2, 3))
    assert template.fill(["dog", "cat"]) == "A red dog, left of a cat."
    assert template.length((1, 2)) == len(template.join([[5], [6, 7]]))
    assert parse_template("a ___ and ___", tokenizer, blank_lengths=2).lengths == ((2,), (2,))
    assert parse_template("a ___ and ___", tokenizer, blank_lengths=[2, 1]).lengths == ((2,), (1,))


@pytest.mark.parametrize(
    ("text", "lengths", "message"),
    [
        ("a red dog", None, "no blank"),
        ("a ___s", None, "touches a word"),
        ("a red___", None, "touches a word"),
        ("a ___ and ___", [1], "does not fit the 2 blanks"),
        ("a ___", 0, "at least 1"),
    ],
)
def test_bad_templates_are_explained(tokenizer: object, text: str, lengths: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_template(text, tokenizer, blank_lengths=lengths)


def test_word_pieces_are_sorted(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = WordPieces.of(tokenizer)
    begins, continues, ordinary = (
        {token for token, index in tokenizer.vocab.items() if row[index]} for row in pieces.allowed
    )
    assert {"red", "un", "a"} <= begins
    assert not {"[MASK]", "[UNK]", "."} & begins
    assert continues
    assert all(token.startswith("##") for token in continues)
    assert ordinary == begins | continues | {"."}
    ids = tokenizer("two unfathomable kites.")["input_ids"]
    assert [tokenizer.decode(ids[place.start : place.stop]) for place in pieces.words(ids)] == [
        "two", "unfathomable", "kites",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), WAYS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(["a", "red", "Dog", "zebra", ",", "unfathomable", "___"]), min_size=1, max_size=5),
    lengths=st.sampled_from([None, 1, 2]),
)
def test_given_words_are_kept_exactly(
    decoders: dict, tokenizer: PreTrainedTokenizerFast, name: str, options: dict, words: list[str], lengths: int | None
) -> None:
    text = " ".join([*words, "___"])
    filled = infill(decoders[name], tokenizer, [text], blank_lengths=lengths, **options)[0]
    template = filled.template
    said = [tokenizer.decode(filler) for filler in filled.fillers]
    assert template.fill(said).split() == [
        word for given_word, word in _zip_blanks(text.split(), said) for word in word.split()
    ]
    ids = iter(filled.ids)
    for part, filler in itertools.zip_longest(template.fixed, filled.fillers, fillvalue=()):
        assert tuple(itertools.islice(ids, len(part))) == tuple(part)
        assert tuple(itertools.islice(ids, len(filler))) == tuple(filler)
    for filler, allowed in zip(filled.fillers, template.lengths, strict=True):
        assert len(filler) in allowed
        assert all(template.pieces.allowed[template.kind(i), piece] for i, piece in enumerate(filler))
    if lengths is None:
        assert all(len(word.split()) == 1 for word in said)


def _zip_blanks(words: list[str], said: list[str]) -> list[tuple[str, str]]:
    fillers = iter(said)
    return [(word, next(fillers) if word == "___" else word) for word in words]


@pytest.mark.parametrize(("name", "options"), WAYS)
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_batch_equals_its_singles(
    decoders: dict, tokenizer: object, name: str, options: dict, mask: torch.Tensor | None
) -> None:
    decoder = decoders[name]
    together = infill(decoder, tokenizer, TEMPLATES, vision=VisionTokens(tokens(), mask), **options)
    evaluations = [int(count) for count in decoder.evaluations]
    for row in range(3):
        kept = tokens()[row : row + 1, : 6 if mask is None else int(mask[row].sum())]
        place = {"indices": torch.tensor([row])}
        alone = infill(decoder, tokenizer, TEMPLATES[row : row + 1], vision=kept, **place, **options)[0]
        assert alone.fillers == together[row].fillers
        assert alone.log_likelihood == pytest.approx(together[row].log_likelihood, abs=1e-3)
        assert int(decoder.evaluations) == evaluations[row]


def test_left_to_right_is_the_argmax_behind_what_stands_before(decoders: dict, tokenizer: object) -> None:
    decoder = decoders["cross_attention"]
    filled = infill(decoder, tokenizer, ["a ___ on a ___ cat"], mode="left_to_right", blank_lengths=1)[0]
    begins = filled.template.pieces.allowed[0]
    for place, filler in ((2, filled.fillers[0]), (5, filled.fillers[1])):
        logits = decoder(tokens(1), torch.tensor([filled.ids[:place]])).logits[0, -1]
        assert filler == (int(logits.masked_fill(~begins, -torch.inf).argmax()),)
    assert decoder.evaluations.tolist() == [2]


@torch.no_grad()
def test_rescoring_finds_the_likeliest_sentence(decoders: dict, tokenizer: object) -> None:
    decoder = decoders["cross_attention"]
    text = "a ___ on a red cat"
    best = infill(decoder, tokenizer, [text], mode="rescored", num_candidates=99, blank_lengths=1)[0]
    begins = best.template.pieces.allowed[0].nonzero().flatten().tolist()
    sentences = torch.tensor([best.template.join([[piece]]) for piece in begins])
    log_p = decoder(tokens(1).expand(len(sentences), -1, -1), sentences).logits[:, :-1].log_softmax(-1)
    likelihood = log_p.gather(-1, sentences[:, 1:, None]).sum((1, 2))
    assert best.fillers == ((begins[int(likelihood.argmax())],),)
    assert best.log_likelihood == pytest.approx(float(likelihood.max()), abs=1e-3)
    few = infill(decoder, tokenizer, [text], mode="rescored", num_candidates=2, blank_lengths=1)[0]
    assert few.log_likelihood <= best.log_likelihood
    assert decoder.evaluations.tolist() == [1 + 2]  # the beginning, then two sentences


def test_fill_in_middle_reads_the_whole_template_first(decoders: dict, tokenizer: PreTrainedTokenizerFast) -> None:
    template = parse_template("a ___ on a ___ cat", tokenizer)
    prompt = prompt_template(template, tokenizer.mask_token_id, tokenizer.sep_token_id)
    dog, red = tokenizer.convert_tokens_to_ids(["dog", "red"])
    said = tokenizer.decode(prompt.join([[dog], [red]]))
    assert said == "[CLS] a [MASK] on a [MASK] cat [SEP] dog [MASK] red [SEP]"
    first = infill(decoders["prefix"], tokenizer, ["a ___ on a red cat"])[0]
    second = infill(decoders["prefix"], tokenizer, ["a ___ on a blue dog"])[0]
    left = [infill(decoders["prefix"], tokenizer, [text], mode="left_to_right", blank_lengths=1)[0].fillers
            for text in ("a ___ on a red cat", "a ___ on a blue dog")]  # fmt: skip
    assert left[0] == left[1]
    assert first.log_likelihood != second.log_likelihood


@torch.no_grad()
def test_masked_compares_lengths_by_words_and_length(decoders: dict, tokenizer: object) -> None:
    decoder = decoders["masked"]
    text = "a ___ on a red cat"
    free = infill(decoder, tokenizer, [text])[0]
    assert decoder.evaluations.tolist() == [1 + 2 + 3]
    lengths = decoder.length_head(decoder._project(tokens(1)))[0]
    scores = [infill_one_length(decoder, free.template, count).log_likelihood for count in (1, 2, 3)]
    one = infill_one_length(decoder, free.template, 1)
    ids = torch.tensor([one.ids])
    masked = ids.clone()
    masked[0, 2] = decoder.config.mask_token_id
    word = float(decoder(tokens(1), masked).logits.log_softmax(-1)[0, 2, ids[0, 2]])
    assert scores[0] == pytest.approx(word + float(lengths[len(one.ids) - 2]), abs=1e-3)
    assert free.log_likelihood == pytest.approx(max(scores), abs=1e-3)


def infill_one_length(decoder: CaptionDecoder, template: Template, count: int) -> Filled:
    return decoder.infill(tokens(1), [replace(template, lengths=((count,),))])[0]


def test_the_best_lengths_of_several_blanks_are_put_together(tokenizer: PreTrainedTokenizerFast) -> None:
    """A decoder that likes two pieces in the first blank, three in the second."""
    template = parse_template("a ___ on a ___", tokenizer)
    tried = []

    def fill(rows: torch.Tensor, canvas: Canvas) -> FilledCanvas:
        scores = []
        for kinds in canvas.kinds.tolist():
            runs = [len(list(run)) for is_open, run in itertools.groupby(kinds, key=lambda kind: kind >= 0) if is_open]
            tried.append(tuple(runs))
            scores.append(-abs(runs[0] - 2) - abs(runs[1] - 3))
        return FilledCanvas(canvas.ids, torch.tensor(scores).float(), torch.ones(len(rows), dtype=torch.long))

    options = {"mask_token_id": tokenizer.mask_token_id, "pad_token_id": 0, "device": torch.device("cpu")}
    filled, evaluations = infill_by_canvas(fill, [template], max_length=20, **options)
    assert [len(filler) for filler in filled[0].fillers] == [2, 3]
    assert tried == [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 3)]
    assert evaluations.tolist() == [6]
    tight, _ = infill_by_canvas(fill, [template], max_length=template.length((1, 2)), **options)
    assert [len(filler) for filler in tight[0].fillers] in ([2, 1], [1, 2])
    assert parse_template("a ___ on a ___", tokenizer).fitting(8).lengths == ((1,), (1, 2))
    assert parse_template("a ___ on a ___", tokenizer).fitting(9).lengths == ((1, 2), (1, 2))
    with pytest.raises(SpecError, match="at least 7 tokens, there is room for 5"):
        infill_by_canvas(fill, [template], max_length=5, **options)


def test_wrong_calls_are_explained(decoders: dict, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="not trained to fill in the middle"):
        infill(decoders["cross_attention"], tokenizer, ["a ___"], mode="fill_in_middle")
    with pytest.raises(ConfigError, match="unknown infilling mode 'beam'"):
        infill(decoders["cross_attention"], tokenizer, ["a ___"], mode="beam")
    with pytest.raises(ConfigError, match="option 'num_beams'"):
        infill(decoders["cross_attention"], tokenizer, ["a ___"], num_beams=3)
    with pytest.raises(ConfigError, match="only 'rescored'"):
        infill(decoders["cross_attention"], tokenizer, ["a ___"], mode="left_to_right", num_candidates=3)
    with pytest.raises(ConfigError, match="num_lengths has no meaning"):
        infill(decoders["masked"], tokenizer, ["a ___"], num_lengths=2)
    for decoder in decoders.values():
        with pytest.raises(SpecError, match="shorten it"):
            infill(decoder, tokenizer, ["red " * 40 + "___"])
    with pytest.raises(SpecError, match="does not fill blanks"):
        CaptionDecoder.infill(decoders["masked"], tokens(1), [])
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "<e>": 1}, [])), eos_token="<e>")
    with pytest.raises(ConfigError, match="this one is BPE"):
        parse_template("a ___", other)
    assert WordPieces.of(load_tokenizer()).allowed.shape == (3, 30522)
