"""The ladder: ways to tell a frozen text-to-image model of images, from an empty prompt to continuous tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vislex.benchmarks.reconstruction import Rung, Scenes, Told, references
from vislex.benchmarks.token_claims import EMPTY, TAIL_DROP
from vislex.captioner import Captioner
from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.t2i.base import Condition
from vislex.diffusion.words import snap_to_words
from vislex.shipped import model_folder
from vislex.vilex import ViLex

__all__ = ["ARM_NAMES", "DE_DIFFUSION", "PAST", "Step", "ladder", "trained_with"]

DE_DIFFUSION: Literal["De-Diffusion"] = "De-Diffusion"
PAST: Literal["past the text encoder"] = "past the text encoder"
ARM_NAMES = (TAIL_DROP, DE_DIFFUSION, PAST)
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


def trained_with(k: int) -> str:
    """Name of the arm that was trained with exactly ``k`` tokens."""
    return f"trained with {k}"


def ladder(
    models: dict[str, ViLex], scenes: Scenes, budgets: Sequence[int], *, captioner: str | None, n: int
) -> Iterator[Step]:
    """All rungs.

    Args:
        models: Trained models by arm; the one with TailDrop is among them.
        scenes: The images.
        budgets: Numbers of tokens of arms with TailDrop.
        captioner: Folder or shipped name of the captioner whose captions are a rung; None for none.
        n: Images that are captioned.
    """
    model = models[TAIL_DROP]
    t2i = model.t2i
    original, told, empty = references(t2i, scenes)
    yield Step("original", None, False, original, lambda: None)
    yield Step(EMPTY, None, False, empty, lambda: 0.0)
    true = functools.cache(lambda: [scenes.caption(row) for row in range(n)])
    yield Step("true caption", None, True, told, lambda: _text_bits(t2i, true()))
    if captioner is not None:
        said = functools.cache(lambda: _captions(captioner, scenes, n, t2i))
        yield _text("a captioner's caption", t2i, said)
    if DE_DIFFUSION in models:
        yield from _discrete(models[DE_DIFFUSION], model, scenes, n)
    for name, own in models.items():
        if name == DE_DIFFUSION:
            continue
        most = own.encoder.config.n_tokens
        for k in [k for k in budgets if k <= most] if name in ARM_NAMES else [most]:
            rung = Rung(f"{name}, {k} tokens", k, Told(own, scenes, k))
            yield Step(name, k, False, rung, _numbers(own, k), (name,))


def _discrete(words: ViLex, model: ViLex, scenes: Scenes, n: int) -> Iterator[Step]:
    """De-Diffusion as it was trained and read again as text, and ViLex's tokens snapped to words of its vocabulary."""
    t2i, vocabulary = words.t2i, words.encoder.config.vocabulary or []
    most = words.encoder.config.n_tokens
    bits = math.log2(len(vocabulary))
    rung = Rung(f"{DE_DIFFUSION}, {most} words", most, Told(words, scenes, most))
    yield Step(DE_DIFFUSION, most, True, rung, lambda: most * bits, (DE_DIFFUSION,))
    texts = functools.cache(lambda: words.describe([scenes.rows[row]["image"] for row in range(n)]))
    yield _text(f"{DE_DIFFUSION}, read as text", t2i, texts, (DE_DIFFUSION,))
    for k in sorted({1, model.encoder.config.n_tokens}):
        told = Told(model, scenes, k)
        rung = Rung(f"snapped to words, {k}", k, functools.partial(_snapped, told, vocabulary))
        yield Step("snapped to words", k, True, rung, functools.partial(float, k * bits), (TAIL_DROP, DE_DIFFUSION))


def _snapped(told: Told, vocabulary: Sequence[int], rows: np.ndarray) -> Condition:
    t2i = told.model.t2i
    return t2i.condition_from_soft_tokens(snap_to_words(t2i, told.tokens(rows), vocabulary))


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


def _numbers(model: ViLex, k: int) -> Callable[[], float]:
    width = sum(model.encoder.config.widths or [])
    return lambda: float(k * width * BITS_A_NUMBER)
