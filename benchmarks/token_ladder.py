"""The ladder: ways to tell a frozen text-to-image model of images, from an empty prompt to continuous tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vislex.benchmarks.reconstruction import Rung, Scenes, Told, references
from vislex.benchmarks.token_arms import DE_DIFFUSION, PAST, TokenArm
from vislex.benchmarks.token_claims import EMPTY, TAIL_DROP
from vislex.captioner import Captioner
from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.t2i.base import Condition
from vislex.diffusion.words import snap_to_words
from vislex.shipped import model_folder

__all__ = ["Step", "ladder"]

BITS_A_NUMBER = 16  # of a continuous token, as bfloat16


@dataclass(frozen=True)
class Step:
    """A rung of the ladder.

    Attributes:
        arm: What tells of the image.
        tokens: Its number of tokens, or None for the original and for texts of any length.
        discrete: Whether words alone tell of it.
        rung: How the condition is made.
        bits: Of the message about an image, called when the rung is measured; None for the original.
        made_by: Arms whose models make the message.
    """

    arm: str
    tokens: int | None
    discrete: bool
    rung: Rung
    bits: Callable[[], float | None]
    made_by: tuple[str, ...] = ()


def ladder(
    arms: Mapping[str, TokenArm],
    t2i: TextToImage,
    scenes: Scenes,
    budgets: Sequence[int],
    *,
    vocabulary: Sequence[int],
    snap: bool,
    captioner: str | None,
    n: int,
) -> Iterator[Step]:
    """All rungs; no arm is asked for its model before a rung is measured.

    Args:
        arms: By name; the one with TailDrop is among them.
        t2i: The frozen text-to-image model of all arms.
        scenes: The images.
        budgets: Numbers of tokens of arms with TailDrop.
        vocabulary: Ids of the words that discrete tokens may be.
        snap: Whether the tokens of TailDrop are also snapped to these.
        captioner: Folder or shipped name of the captioner whose captions are a rung; None for none.
        n: Images that are captioned.
    """
    original, told, empty = references(t2i, scenes)
    yield Step("original", None, False, original, lambda: None)
    yield Step(EMPTY, None, False, empty, lambda: 0.0)
    true = functools.cache(lambda: [scenes.caption(row) for row in range(n)])
    yield Step("true caption", None, True, told, lambda: _text_bits(t2i, true()))
    if captioner is not None:
        said = functools.cache(lambda: _captions(captioner, scenes, n, t2i))
        yield _text("a captioner's caption", t2i, said)
    bits = math.log2(len(vocabulary))
    if (words := arms.get(DE_DIFFUSION)) is not None:
        yield from _discrete(words, t2i, scenes, bits, n)
    if snap:
        yield from _snapped_rungs(arms[TAIL_DROP], scenes, vocabulary, bits)
    for name, arm in arms.items():
        if name == DE_DIFFUSION:
            continue
        for k in [k for k in budgets if k <= arm.n_tokens] if name in (TAIL_DROP, PAST) else [arm.n_tokens]:
            rung = Rung(f"{name}, {k} tokens", k, functools.partial(_told, arm, scenes, k))
            yield Step(name, k, False, rung, functools.partial(float, k * sum(t2i.widths) * BITS_A_NUMBER), (name,))


def _discrete(words: TokenArm, t2i: TextToImage, scenes: Scenes, bits: float, n: int) -> Iterator[Step]:
    """De-Diffusion as it was trained, and read again as text."""
    most = words.n_tokens
    rung = Rung(f"{DE_DIFFUSION}, {most} words", most, functools.partial(_told, words, scenes, most))
    yield Step(DE_DIFFUSION, most, True, rung, functools.partial(float, most * bits), (DE_DIFFUSION,))
    texts = functools.cache(lambda: words.model.describe([scenes.rows[row]["image"] for row in range(n)]))
    yield _text(f"{DE_DIFFUSION}, read as text", t2i, texts, (DE_DIFFUSION,))


def _snapped_rungs(arm: TokenArm, scenes: Scenes, vocabulary: Sequence[int], bits: float) -> Iterator[Step]:
    """TailDrop's tokens, one and all, each replaced by its nearest word."""
    for k in sorted({1, arm.n_tokens}):
        rung = Rung(f"snapped to words, {k}", k, functools.partial(_snapped, arm, scenes, k, vocabulary))
        yield Step("snapped to words", k, True, rung, functools.partial(float, k * bits), (TAIL_DROP,))


def _told(arm: TokenArm, scenes: Scenes, k: int, rows: np.ndarray) -> Condition:
    return Told(arm.model, scenes, k)(rows)


def _snapped(arm: TokenArm, scenes: Scenes, k: int, vocabulary: Sequence[int], rows: np.ndarray) -> Condition:
    t2i = arm.model.t2i
    return t2i.condition_from_soft_tokens(snap_to_words(t2i, Told(arm.model, scenes, k).tokens(rows), vocabulary))


def _text(name: str, t2i: TextToImage, texts: Callable[[], list[str]], made_by: tuple[str, ...] = ()) -> Step:
    def condition(rows: np.ndarray) -> Condition:
        return t2i.condition([texts()[int(row)] for row in rows])

    return Step(name, None, True, Rung(name, None, condition), lambda: _text_bits(t2i, texts()), made_by)


def _captions(name: str, scenes: Scenes, n: int, t2i: TextToImage) -> list[str]:
    captioner: Any = Captioner.from_pretrained(model_folder(name))
    images = [scenes.rows[row]["image"] for row in range(n)]
    return [caption.text for caption in captioner.to(t2i.device).eval().caption(images)]


def _text_bits(t2i: TextToImage, texts: Sequence[str]) -> float:
    """Mean length in word pieces, each as long as an index into the vocabulary."""
    reader = t2i.texts[0]
    pieces = float(np.mean([len(row) for row in reader.word_ids(list(texts))]))
    return pieces * math.log2(len(reader.tokenizer))
