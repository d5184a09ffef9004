"""Captions from a small grammar: lossy ones, which name a part of what can be named, and dense ones, which name all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from vislex.data.openmoji.draws import Draws
from vislex.data.openmoji.lexicon import (
    COUNT_WORDS,
    POSITION_PHRASES,
    RELATION_PHRASES,
    SIZE_WORDS,
    article,
    plural,
)
from vislex.data.openmoji.scenes import Item, Scene

__all__ = ["N_REFERENCES", "STYLES", "captions", "relation"]

STYLES = ("lossy", "dense")
N_REFERENCES = 5
NAMED = 0.4  # probability that a caption names a sometimes-named factor
_REDRAWS = 6
_RELATION_GAP = 0.18
_RELATION_SLOPE = 0.7


class _Text(NamedTuple):
    """What a caption says of the drawings.

    Attributes:
        alone: As the whole caption, which may begin with a place: "at the top is a cat".
        phrase: As a noun phrase, which can follow "there is" or "a picture of": "a cat at the top".
        starts_plural: Whether the first noun is a plural.
    """

    alone: str
    phrase: str
    starts_plural: bool


def relation(first: Item, second: Item) -> str | None:
    """Where the first lies as seen from the second: "left of", "right of", "above", "below", or None if unclear."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= _RELATION_GAP and abs(dy) <= _RELATION_SLOPE * abs(dx):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= _RELATION_GAP and abs(dx) <= _RELATION_SLOPE * abs(dy):
        return "above" if dy < 0 else "below"
    return None


def captions(scene: Scene, draws: Draws, style: str = "lossy", n: int = N_REFERENCES) -> list[str]:
    """References of a scene; they differ in words and order, and (lossy ones) in what they leave out."""
    write = _dense if style == "dense" else _lossy
    written: dict[str, None] = {}
    for _ in range(n * _REDRAWS):
        written[write(scene, draws)] = None
        if len(written) == n:
            break
    texts = list(written)
    return [texts[i % len(texts)] for i in range(n)]


def _groups(scene: Scene, draws: Draws) -> list[list[Item]]:
    """Items by concept, in a random order."""
    by_concept: dict[str, list[Item]] = {}
    for item in scene.items:
        by_concept.setdefault(item.concept, []).append(item)
    groups = list(by_concept.values())
    draws.shuffle(groups)
    return groups


def _with_article(phrase: str) -> str:
    return f"{article(phrase)} {phrase}"


def _noun(group: Sequence[Item], draws: Draws, *, size: bool, count: bool) -> str:
    """The noun phrase of a group without its place: "a small cat", "two cats", "some cats"."""
    item, n = group[0], len(group)
    noun = item.concept if n == 1 else plural(item.concept)
    if size and all(other.size == item.size for other in group):
        noun = f"{draws.choice(SIZE_WORDS[item.size])} {noun}"
    if n == 1:
        return f"{'one' if count and draws.chance(0.3) else article(noun)} {noun}"
    if count:
        return f"{COUNT_WORDS[n]} {noun}"
    return noun if draws.chance(0.5) else f"some {noun}"


def _place(item: Item, draws: Draws) -> str:
    return draws.choice(POSITION_PHRASES[item.position])


def _members(group: Sequence[Item], draws: Draws, *, size: bool) -> str:
    """What tells the members of a group apart: "a small one at the top and one on the left"."""
    parts = []
    for item in group:
        head = _with_article(f"{draws.choice(SIZE_WORDS[item.size])} one") if size else "one"
        parts.append(f"{head} {_place(item, draws)}")
    return _join(parts)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _phrase(group: Sequence[Item], draws: Draws, *, size: bool, count: bool, position: bool) -> str:
    """A noun phrase with what the caption names of it."""
    if len(group) == 1:
        noun = _noun(group, draws, size=size, count=count)
        return f"{noun} {_place(group[0], draws)}" if position else noun
    if position and count:
        same = all(item.size == group[0].size for item in group)
        noun = _noun(group, draws, size=size and same, count=True)
        return f"{noun}, {_members(group, draws, size=size and not same)}"
    return _noun(group, draws, size=size, count=count)


def _on_background(scene: Scene, text: _Text, draws: Draws) -> str:
    ground = _with_article(f"{scene.background} background")
    return draws.choice(
        (
            f"{text.alone} on {ground}",
            f"{text.alone} on {ground}",
            f"{text.alone} against {ground}",
            f"{ground} with {text.phrase}",
            f"on {ground}, {text.alone}",
        )
    )


def _lossy(scene: Scene, draws: Draws) -> str:
    groups = _groups(scene, draws)
    named = [{factor: draws.chance(NAMED) for factor in ("size", "count", "position")} for _ in groups]
    related = _related(groups, named, draws) if len(groups) > 1 and any(n["position"] for n in named) else None
    text = _Text(related, related, starts_plural=False) if related else _listed(groups, named, draws)
    if draws.chance(NAMED):
        return _on_background(scene, text, draws)
    if draws.chance(0.15):
        return f"{draws.choice(('a drawing of', 'a picture of'))} {text.phrase}"
    if draws.chance(0.12):
        return f"there {'are' if text.starts_plural else 'is'} {text.phrase}"
    return text.alone


def _listed(groups: Sequence[Sequence[Item]], named: Sequence[dict[str, bool]], draws: Draws) -> _Text:
    """ "a cat at the top, two dogs and a car"; a lone drawing may come after its place."""
    if len(groups) == 1 and len(groups[0]) == 1 and named[0]["position"] and draws.chance(0.3):
        noun = _noun(groups[0], draws, size=named[0]["size"], count=False)
        place = _place(groups[0][0], draws)
        return _Text(f"{place} is {noun}", f"{noun} {place}", starts_plural=False)
    text = _join([_phrase(group, draws, **names) for group, names in zip(groups, named, strict=True)])
    return _Text(text, text, starts_plural=len(groups[0]) > 1)


def _related(groups: Sequence[Sequence[Item]], named: Sequence[dict[str, bool]], draws: Draws) -> str | None:
    """ "a cat to the left of a dog" for a pair that allows it, half of the time; the rest is listed after."""
    if draws.chance(0.5):
        return None
    for i, j in itertools.permutations(range(len(groups)), 2):
        if len(groups[i]) > 1 or len(groups[j]) > 1 or not (found := relation(groups[i][0], groups[j][0])):
            continue
        first = _noun(groups[i], draws, size=named[i]["size"], count=False)
        second = _noun(groups[j], draws, size=named[j]["size"], count=False)
        pair = f"{first} {draws.choice(RELATION_PHRASES[found])} {second}"
        rest = [k for k in range(len(groups)) if k not in (i, j)]
        if not rest:
            return pair
        others = _join([_phrase(groups[k], draws, **named[k]) for k in rest])
        return f"{pair}, and {others}" if len(rest) == 1 else f"{pair}, {others}"
    return None


def _dense(scene: Scene, draws: Draws) -> str:
    groups = _groups(scene, draws)
    text = _join([_phrase(group, draws, size=True, count=True, position=True) for group in groups])
    return _on_background(scene, _Text(text, text, starts_plural=len(groups[0]) > 1), draws)
