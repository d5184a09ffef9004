"""Captions with blanks: ``"a ___ on a ___ table"``. Templates, and the search that diffusion decoders fill them with.

A decoder's ``infill`` gets templates and gives ``Filled`` captions. These are put together from the template's own
tokens and the fillers, so what was given is kept whatever the decoder does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vislex.decoders.unmasking import Canvas
from vislex.errors import ConfigError, SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "BLANK", "MOST_PIECES", "Filled", "FilledCanvas", "Template", "WordPieces", "infill_by_canvas", "parse_template",
]  # fmt: skip

BLANK = re.compile(r"_{2,}")
MOST_PIECES = 3  # of a blank that stands for one word
BEGINNING, CONTINUATION, ANY = range(3)


@dataclass(frozen=True)
class WordPieces:
    """Which tokens may stand where in a blank.

    Attributes:
        allowed: bool[3, V]: tokens that begin a word, tokens that continue one, all but special tokens.
    """

    allowed: Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> WordPieces:
        """Sorts the tokens of a WordPiece vocabulary.

        Raises:
            ConfigError: If it is of another kind: its tokens do not tell where a word begins.
        """
        kind = type(tokenizer.backend_tokenizer.model).__name__
        if kind != "WordPiece":
            raise ConfigError(f"blanks need a WordPiece vocabulary, this one is {kind}; train with tokenizer=minilm")
        special = set(tokenizer.all_special_ids)
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        continues = [token.startswith("##") for token in tokens]
        ordinary = [index not in special for index in range(len(tokens))]
        begins = [
            plain and not inner and any(map(str.isalnum, token))
            for token, plain, inner in zip(tokens, ordinary, continues, strict=True)
        ]
        return cls(torch.tensor([begins, continues, ordinary]))

    def words(self, ids: Sequence[int]) -> list[range]:
        """Places of each word in a sequence of ids; special tokens and punctuation are no words."""
        starts = [place for place, token in enumerate(ids) if self.allowed[BEGINNING, token]]
        found = []
        for start in starts:
            end = start + 1
            while end < len(ids) and self.allowed[CONTINUATION, ids[end]]:
                end += 1
            found.append(range(start, end))
        return found


@dataclass(frozen=True)
class Template:
    """A caption with blanks.

    Attributes:
        texts: What stands before, between and behind the blanks, as it was given.
        fixed: The ids of the same, the first with the first special token, the last with the last.
        lengths: For each blank the numbers of pieces that it may have, ascending.
        one_word: Whether a blank stands for one word: its pieces behind the first continue it.
        pieces: Which tokens a blank may have.
    """

    texts: tuple[str, ...]
    fixed: tuple[tuple[int, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    one_word: bool
    pieces: WordPieces

    def kind(self, place: int) -> int:
        """Row of ``pieces.allowed`` for the piece at ``place`` of a blank. The first begins a word: given ones stay."""
        if place == 0:
            return BEGINNING
        return CONTINUATION if self.one_word else ANY

    def join(self, fillers: Sequence[Sequence[int]]) -> list[int]:
        """Ids of the caption."""
        return list(itertools.chain(self.fixed[0], *(part for pair in zip(fillers, self.fixed[1:], strict=True)
                                                     for part in pair)))  # fmt: skip

    def fill(self, words: Sequence[str]) -> str:
        """Text of the caption: the given text, letter for letter, with words in its blanks."""
        return "".join(itertools.chain(self.texts[:1], *zip(words, self.texts[1:], strict=True)))

    def fitting(self, max_length: int) -> Template:
        """With fewer lengths to choose from, so that every choice fits into ``max_length`` tokens.

        Raises:
            SpecError: If not even the shortest blanks fit.
        """
        lengths = [list(own) for own in self.lengths]
        while self.length([own[-1] for own in lengths]) > max_length:
            longest = max(lengths, key=lambda own: (len(own) > 1, own[-1]))
            if len(longest) == 1:
                raise SpecError(
                    f"the template '{self.fill(['___'] * len(lengths))}' takes at least "
                    f"{self.length([own[0] for own in lengths])} tokens, there is room for {max_length}; shorten it, "
                    "or create the decoder with a larger max_length"
                )
            longest.pop()
        return replace(self, lengths=tuple(map(tuple, lengths)))

    def length(self, counts: Sequence[int]) -> int:
        """Number of tokens of the caption if the blanks have these numbers of pieces."""
        return sum(map(len, self.fixed)) + sum(counts)


@dataclass(frozen=True)
class Filled:
    """A template with fillers.

    Attributes:
        template: The template.
        fillers: Ids of each blank.
        log_likelihood: Of what the decoder compared: higher is likelier, for this decoder and this template only.
    """

    template: Template
    fillers: tuple[tuple[int, ...], ...]
    log_likelihood: float

    @property
    def ids(self) -> list[int]:
        return self.template.join(self.fillers)


@dataclass(frozen=True)
class FilledCanvas:
    """What a decoder made of a canvas.

    Attributes:
        ids: int64[R, L].
        log_likelihood: float[R], comparable between canvases of different length.
        evaluations: int64[R].
    """

    ids: Tensor
    log_likelihood: Tensor
    evaluations: Tensor


def parse_template(
    text: str, tokenizer: PreTrainedTokenizerFast, *, blank_lengths: int | Sequence[int] | None = None
) -> Template:
    """Reads a template; a blank is two or more underscores that stand alone.

    Args:
        text: "a ___ on a ___ table".
        tokenizer: The decoder's.
        blank_lengths: Word pieces of every blank, or of each. None: each blank is one word, of at most three pieces.

    Raises:
        ConfigError: If there is no blank, one touches a letter or a digit, or the lengths do not fit the blanks.
    """
    from vislex.text import special_tokens

    texts = BLANK.split(text)
    n_blanks = len(texts) - 1
    if not n_blanks:
        raise ConfigError(f"the template '{text}' has no blank; write ___ where words are to be filled in")
    for before, after in itertools.pairwise(texts):
        if before[-1:].isalnum() or after[:1].isalnum():
            raise ConfigError(f"a blank of the template '{text}' touches a word; put spaces around ___")
    if isinstance(blank_lengths, int):
        blank_lengths = [blank_lengths] * n_blanks
    if blank_lengths is not None and (len(blank_lengths) != n_blanks or min(blank_lengths) < 1):
        raise ConfigError(
            f"blank_lengths {list(blank_lengths)} does not fit the {n_blanks} blanks of '{text}'; give one number, or "
            "one for each blank, of at least 1"
        )
    special = special_tokens(tokenizer)
    fixed = [tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in texts]
    fixed[0] = (special.bos, *fixed[0])
    fixed[-1] = (*fixed[-1], special.eos)
    one_word = tuple(range(1, MOST_PIECES + 1))
    lengths = [one_word] * n_blanks if blank_lengths is None else [(count,) for count in blank_lengths]
    return Template(tuple(texts), tuple(fixed), tuple(lengths), blank_lengths is None, WordPieces.of(tokenizer))


def infill_by_canvas(
    fill: Callable[[Tensor, Canvas], FilledCanvas],
    templates: Sequence[Template],
    *,
    mask_token_id: int,
    pad_token_id: int,
    max_length: int,
    device: torch.device,
) -> tuple[list[Filled], Tensor]:
    """Fills templates with a decoder that writes a canvas at once, and chooses the lengths of their blanks.

    Every length of every blank is tried while the other blanks have their shortest; the best lengths are put together.

    Args:
        fill: Called with int64[R], the image of each row, and the canvas.
        templates: One an image.
        mask_token_id: Stands in the canvas at open positions.
        pad_token_id: Stands behind the end.
        max_length: Longest caption of the decoder.
        device: Where the canvas is made.

    Returns:
        The captions, and the evaluations int64[B] that they took.

    Raises:
        SpecError: If a template does not fit.
    """
    templates = [template.fitting(max_length) for template in templates]
    tried: list[dict[tuple[int, ...], Filled]] = [{} for _ in templates]
    evaluations = torch.zeros(len(templates), dtype=torch.long)
    wanted = [(row, counts) for row, template in enumerate(templates) for counts in _first_trials(template)]
    while wanted:
        rows = torch.tensor([row for row, _ in wanted], device=device)
        canvas = _canvas([(templates[row], counts) for row, counts in wanted], mask_token_id, pad_token_id, device)
        made = fill(rows, canvas)
        evaluations.index_add_(0, rows.cpu(), made.evaluations.cpu())
        for (row, counts), ids, score in zip(wanted, made.ids.tolist(), made.log_likelihood.tolist(), strict=True):
            tried[row][counts] = Filled(templates[row], _fillers(templates[row], counts, ids), score)
        best = [(row, _best_lengths(own)) for row, own in enumerate(tried)]
        wanted = [(row, counts) for row, counts in best if counts not in tried[row]]
    return [max(own.values(), key=lambda filled: filled.log_likelihood) for own in tried], evaluations


def _first_trials(template: Template) -> list[tuple[int, ...]]:
    """The shortest lengths, and each other length of one blank."""
    shortest = tuple(lengths[0] for lengths in template.lengths)
    return [shortest] + [
        (*shortest[:blank], count, *shortest[blank + 1 :])
        for blank, lengths in enumerate(template.lengths)
        for count in lengths[1:]
    ]


def _best_lengths(tried: dict[tuple[int, ...], Filled]) -> tuple[int, ...]:
    """The best length of each blank while the others are shortest."""
    shortest = next(iter(tried))
    chosen = []
    for blank in range(len(shortest)):
        alone = [counts for counts in tried if all(counts[i] == shortest[i] for i in range(len(counts)) if i != blank)]
        chosen.append(max(alone, key=lambda counts: tried[counts].log_likelihood)[blank])
    return tuple(chosen)


def _canvas(
    wanted: Sequence[tuple[Template, tuple[int, ...]]], mask_token_id: int, pad_token_id: int, device: torch.device
) -> Canvas:
    longest = max(template.length(counts) for template, counts in wanted)
    ids = torch.full((len(wanted), longest), pad_token_id)
    kinds = torch.full((len(wanted), longest), -1)
    lengths = torch.tensor([template.length(counts) for template, counts in wanted])
    for row, (template, counts) in enumerate(wanted):
        open_ids = template.join([[mask_token_id] * count for count in counts])
        ids[row, : len(open_ids)] = torch.tensor(open_ids)
        for place, count in zip(_places(template, counts), counts, strict=True):
            kinds[row, place : place + count] = torch.tensor([template.kind(i) for i in range(count)])
    token_mask = torch.arange(longest) < lengths[:, None]
    allowed = wanted[0][0].pieces.allowed
    return Canvas(ids.to(device), kinds.to(device), allowed.to(device), token_mask.to(device))


def _places(template: Template, counts: Sequence[int]) -> list[int]:
    """Where each blank begins."""
    before = itertools.accumulate(map(len, template.fixed[:-1]))
    pieces = itertools.accumulate(counts, initial=0)
    return [given + filled for given, filled in zip(before, pieces, strict=False)]


def _fillers(template: Template, counts: Sequence[int], ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    places = _places(template, counts)
    return tuple(tuple(ids[place : place + count]) for place, count in zip(places, counts, strict=True))
