"""How captions came about: the words after every step, for the screen and for reports.

A decoder's ``trace`` holds ids; ``caption_steps`` makes words of them and marks those that changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["HIDDEN", "CaptionStep", "TraceStep", "caption_steps", "left_to_right_trace"]

HIDDEN = "___"  # stands for a word that is not written yet


@dataclass(frozen=True)
class TraceStep:
    """A caption after one step.

    Attributes:
        ids: int64[L], with special tokens; the mask token where nothing is written.
        time: What is left to do, in [0, 1]: the noise level t / T of ``ladic``, the share of positions that ``masked``
            still hides, the share of tokens that a decoder has still to write that writes from left to right.
    """

    ids: Tensor
    time: float


@dataclass(frozen=True)
class CaptionStep:
    """The words of a caption after one step.

    Attributes:
        time: See ``TraceStep``.
        words: Words and punctuation in their order, "___" where nothing is written.
        pieces: Word pieces of each.
        changed: Whether each differs from what stood there after the step before; after the first step all do that are
            written.
    """

    time: float
    words: tuple[str, ...]
    pieces: tuple[int, ...]
    changed: tuple[bool, ...]


def caption_steps(trace: Sequence[TraceStep], tokenizer: Any) -> list[CaptionStep]:
    """Words of the steps of one caption.

    Args:
        trace: What a decoder kept of one caption.
        tokenizer: The decoder's. Of a WordPiece vocabulary pieces become words, of another one they stay apart.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    steps = []
    before: dict[int, int] = {}
    for step in trace:
        placed = {place: token for place, token in enumerate(step.ids.tolist()) if token not in special}
        groups = list(_words(placed, tokenizer))
        texts = [_text([placed[place] for place in group], tokenizer) for group in groups]
        changed = [
            text != HIDDEN and any(before.get(place) != placed[place] for place in group)
            for group, text in zip(groups, texts, strict=True)
        ]
        steps.append(CaptionStep(step.time, tuple(texts), tuple(map(len, groups)), tuple(changed)))
        before = placed
    return steps


def left_to_right_trace(captions: Tensor, n_given: int, pad_token_id: int) -> list[list[TraceStep]]:
    """Steps of captions int64[B, L] that were written one token after another behind ``n_given`` tokens."""
    traces = []
    for ids in captions:
        written = (ids[n_given:] != pad_token_id).nonzero()
        count = int(written[-1]) + 1 if len(written) else 0
        traces.append([TraceStep(ids[: n_given + k], 1 - k / count) for k in range(1, count + 1)])
    return traces


def _is_hidden(token: int, tokenizer: Any) -> bool:
    """Whether it is a mask token: the tokenizer's, or one that a decoder put behind a vocabulary without."""
    return token == tokenizer.mask_token_id or token >= len(tokenizer)


def _words(placed: dict[int, int], tokenizer: Any) -> Iterator[list[int]]:
    """Places of the pieces of each word."""
    group: list[int] = []
    for place, token in placed.items():
        piece = "" if _is_hidden(token, tokenizer) else tokenizer.convert_ids_to_tokens(token)
        goes_on = group and piece.startswith("##") and not _is_hidden(placed[group[-1]], tokenizer)
        if group and not goes_on:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _text(ids: list[int], tokenizer: Any) -> str:
    if _is_hidden(ids[0], tokenizer):
        return HIDDEN
    text: str = tokenizer.decode(ids)
    return text.strip()
