"""Filling blanks with a decoder that writes from left to right: the rivals of decoders that see both sides.

``left_to_right`` writes each blank's likeliest words after what stands before it and then goes on with the given words.
``rescored`` keeps several candidates and compares them by the likelihood of the whole sentence, given words included.
``fill_in_middle`` reads the template first and then writes the fillers; a decoder must be trained for it (Donahue et
al. 2020, arXiv 2005.05339; Bavarian et al. 2022, arXiv 2207.14255).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vislex.decoders.infill import ANY, BEGINNING, CONTINUATION, Filled, Template

__all__ = ["InfillMode", "fill_left_to_right", "prompt_template"]

InfillMode = Literal["left_to_right", "rescored", "fill_in_middle"]
Score = Callable[[Sequence[int], Sequence[Sequence[int]]], list[Tensor]]


@dataclass(frozen=True)
class _Beam:
    """A beginning of the caption of template ``row``.

    Attributes:
        row: Number of the template.
        fillers: Pieces of the blanks so far.
        score: Log-likelihood of the tokens so far.
        is_open: Whether the last blank may get more pieces.
    """

    row: int
    fillers: tuple[tuple[int, ...], ...] = ()
    score: float = 0.0
    is_open: bool = False

    def more(self, token: int, log_p: float) -> _Beam:
        """With one more piece in the last blank."""
        return replace(self, fillers=(*self.fillers[:-1], (*self.fillers[-1], token)), score=self.score + log_p)

    def ids(self, template: Template) -> list[int]:
        """The caption up to the next piece to write; all of it if there is none."""
        ids = list(template.fixed[0])
        for filler, part in zip(self.fillers, template.fixed[1:], strict=False):
            ids += [*filler, *part]
        return ids[: len(ids) - len(template.fixed[len(self.fillers)])] if self.is_open else ids


def prompt_template(template: Template, blank: int, end: int) -> Template:
    """The template as a model that fills in the middle reads it: given words with marked blanks, then the fillers.

    "[CLS] a [MASK] on a [MASK] table [SEP] ___ [MASK] ___ [SEP]" with ``blank`` [MASK] and ``end`` [SEP].
    """
    question = [*template.fixed[0]]
    for part in template.fixed[1:]:
        question += [blank, *part]
    between = [(blank,)] * (len(template.lengths) - 1)
    return replace(template, fixed=(tuple(question), *between, (end,)))


def fill_left_to_right(
    score: Score, templates: Sequence[Template], *, num_candidates: int = 1
) -> tuple[list[Filled], Tensor]:
    """Fills templates from left to right.

    Args:
        score: Takes R numbers of templates and R beginnings; gives for each of them log-probabilities
            float[length, V] of the token behind each of its tokens.
        templates: One an image.
        num_candidates: Candidates that are kept for each template; the whole sentence decides between them. 1 keeps
            the likeliest piece at each place and looks at no word behind it.

    Returns:
        The captions, and the evaluations int64[B]: a forward of one beginning counts one.
    """
    evaluations = torch.zeros(len(templates), dtype=torch.long)

    def look(beams: Sequence[_Beam]) -> dict[_Beam, Tensor]:
        """Beams with their likelihood, and the log-probabilities float[V] of what comes next."""
        if not beams:
            return {}
        beginnings = [beam.ids(templates[beam.row]) for beam in beams]
        rows = [beam.row for beam in beams]
        evaluations.index_add_(0, torch.tensor(rows), torch.ones(len(rows), dtype=torch.long))
        seen = {}
        for beam, ids, log_p in zip(beams, beginnings, score(rows, beginnings), strict=True):
            given = log_p[:-1].gather(1, torch.tensor(ids[1:], device=log_p.device)[:, None])
            seen[replace(beam, score=float(given.sum()))] = log_p[-1].cpu()
        return seen

    beams = [_Beam(row) for row in range(len(templates))]
    for blank in range(max(len(template.lengths) for template in templates)):
        waiting = {beam: blank < len(templates[beam.row].lengths) for beam in beams}
        seen = look([beam for beam in beams if waiting[beam]])
        begun = [
            new
            for beam in _best(seen, num_candidates)
            for new in _begin(templates[beam.row], beam, seen[beam], num_candidates)
        ]
        filled = _finish_blank(templates, blank, _best(begun, num_candidates), look, num_candidates)
        beams = [beam for beam in beams if not waiting[beam]] + filled
    if num_candidates > 1:
        beams = list(look(beams))
    best = sorted(_best(beams, 1), key=lambda beam: beam.row)
    return [Filled(templates[beam.row], beam.fillers, beam.score) for beam in best], evaluations


def _begin(template: Template, beam: _Beam, log_p: Tensor, count: int) -> list[_Beam]:
    """The likeliest first pieces of the next blank."""
    values, tokens = _allowed(template, log_p, BEGINNING).topk(
        min(count, int(template.pieces.allowed[BEGINNING].sum()))
    )
    opened = replace(beam, fillers=(*beam.fillers, ()), is_open=True)
    return [opened.more(token, value) for token, value in zip(tokens.tolist(), values.tolist(), strict=True)]


def _finish_blank(
    templates: Sequence[Template],
    blank: int,
    beams: list[_Beam],
    look: Callable[[Sequence[_Beam]], dict[_Beam, Tensor]],
    num_candidates: int,
) -> list[_Beam]:
    """Beams whose blank has all its pieces: greedily it grows while that is likelier than what is given behind it."""
    closed: list[_Beam] = []
    place = 1
    while beams:
        full = [beam for beam in beams if place == templates[beam.row].lengths[blank][-1]]
        closed += [replace(beam, is_open=False) for beam in full]
        seen = look([beam for beam in beams if beam not in full])
        beams = []
        for beam, log_p in seen.items():
            template = templates[beam.row]
            value, token = _allowed(template, log_p, CONTINUATION if template.one_word else ANY).max(-1)
            close = place in template.lengths[blank]
            if num_candidates == 1:
                close = close and float(value) <= _log_p_of_closing(template, blank, log_p)
            if close:
                closed.append(replace(beam, is_open=False))
            if (not close or num_candidates > 1) and float(value) > -torch.inf:
                beams.append(beam.more(int(token), float(value)))
        place += 1
    return closed


def _log_p_of_closing(template: Template, blank: int, log_p: Tensor) -> float:
    """Log-probability of the given token behind a blank, or of another word where the next blank follows at once."""
    behind = template.fixed[blank + 1]
    return float(log_p[behind[0]]) if behind else float(_allowed(template, log_p, BEGINNING).max())


def _allowed(template: Template, log_p: Tensor, kind: int) -> Tensor:
    allowed = template.pieces.allowed[kind]
    return log_p[: len(allowed)].masked_fill(~allowed, -torch.inf)


def _best(beams: Iterable[_Beam], count: int) -> list[_Beam]:
    """The likeliest beams of each template."""
    by_row: dict[int, list[_Beam]] = {}
    for beam in sorted(beams, key=lambda beam: -beam.score):
        by_row.setdefault(beam.row, []).append(beam)
    return [beam for own in by_row.values() for beam in own[:count]]
