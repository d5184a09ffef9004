"""scene-F1: captions read back by the suite's lexicon and checked against the factors of their images.

A caption becomes statements: objects, counts, sizes, positions, relations and the background. Each is right or wrong by
the factors, so precision is exact, and a hallucinated object is a name of the lexicon that the image does not hold.
Recall asks how much of what can be named was named; lossy references have a recall below 1 themselves, which makes
them the ceiling to print beside a model.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vislex.data.openmoji.captions import relation
from vislex.data.openmoji.lexicon import (
    CELLS,
    COLOUR_WORDS,
    COUNT_WORDS,
    POSITION_PHRASES,
    RELATION_PHRASES,
    SIZE_WORDS,
    plural,
)
from vislex.data.openmoji.manifest import nouns
from vislex.data.openmoji.scenes import Scene
from vislex.errors import DataError

__all__ = ["ID", "PARTS", "Reading", "named_concepts", "parse_caption", "scene_counts", "score_scenes"]

ID = "scene-f1@1"
PARTS = ("objects", "counts", "sizes", "positions", "relations", "background")
Statement = tuple[str, ...]

_WORD = re.compile(r"[a-z0-9']+(?:-[a-z0-9']+)*")


def _phrases(table: Mapping[str, Iterable[str]], kind: str) -> dict[tuple[str, ...], tuple[str, str]]:
    return {tuple(_WORD.findall(phrase)): (kind, value) for value, phrases in table.items() for phrase in phrases}


@functools.lru_cache(maxsize=16)
def _lexicon(extra: frozenset[str] = frozenset()) -> dict[tuple[str, ...], tuple[str, str]]:
    """Phrase -> (kind, value); concepts of the default vocabulary and those that the factors name."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for colour, value in COLOUR_WORDS.items():
        for ground in ("background", "backdrop"):
            found[(colour, ground)] = ("background", value)
    found |= _phrases(SIZE_WORDS, "size")
    found |= _phrases(POSITION_PHRASES, "position")
    found |= _phrases(RELATION_PHRASES, "relation")
    found |= {(word,): ("count", str(n)) for n, word in COUNT_WORDS.items()}
    found |= {("a",): ("count", "1"), ("an",): ("count", "1")}
    for concept in sorted({*nouns("default"), *extra}):
        found[tuple(_WORD.findall(plural(concept)))] = ("concept", concept)
        found[tuple(_WORD.findall(concept))] = ("concept", concept)
    return found


@functools.lru_cache(maxsize=16)
def _longest(extra: frozenset[str]) -> int:
    return max(map(len, _lexicon(extra)))


@dataclass
class _Mention:
    concept: str
    count: int
    size: str | None
    position: str | None = None
    members: list[tuple[str | None, str | None]] = field(default_factory=list)  # size, position of "one at the top"


@dataclass(frozen=True)
class Reading:
    """What a caption says, as statements: ("objects", "cat"), ("sizes", "cat", "small"), ..."""

    statements: tuple[Statement, ...]


def _tokens(caption: str, extra: frozenset[str]) -> list[tuple[str, str]]:
    """Longest matches of the lexicon, left to right; other words are dropped but for those that order the rest."""
    words = _WORD.findall(caption.lower())
    lexicon, longest = _lexicon(extra), _longest(extra)
    found, i = [], 0
    while i < len(words):
        for length in range(min(longest, len(words) - i), 0, -1):
            if hit := lexicon.get(tuple(words[i : i + length])):
                found.append(hit)
                i += length
                break
        else:
            if words[i] in ("is", "are", "there"):
                found.append(("verb", words[i]))
            i += 1
    return found


def parse_caption(caption: str, concepts: Iterable[str] = ()) -> Reading:
    """Reads a caption by the suite's lexicon.

    Args:
        caption: Any text; words outside the lexicon say nothing.
        concepts: Names beyond the default vocabulary.
    """
    tokens = _tokens(caption, frozenset(concepts) - set(nouns("default")))
    mentions: list[_Mention] = []
    statements: dict[Statement, None] = {}
    related: tuple[_Mention, str] | None = None
    count: int | None = None
    size: str | None = None
    ahead: str | None = None  # a position that stands before its noun: "at the top is a cat"
    for i, (kind, value) in enumerate(tokens):
        following = tokens[i + 1][0] if i + 1 < len(tokens) else ""
        if kind == "background":
            statements["background", value] = None
            count = size = None
        elif kind == "count":
            # "one at the top", "a small one": a member of the group just named
            if value == "1" and mentions and (following == "position" or (size and following in ("position", ""))):
                mentions[-1].members.append((size, None))
                count = size = None
            else:
                count = int(value)
        elif kind == "size":
            size = value
        elif kind == "relation" and mentions:
            related = (mentions[-1], value)
        elif kind == "position":
            if following == "verb":
                ahead = value
            elif mentions and mentions[-1].members:
                mentions[-1].members[-1] = (mentions[-1].members[-1][0], value)
            elif mentions:
                mentions[-1].position = value
        elif kind == "concept":
            mention = _Mention(value, count or 1, size, ahead)  # "cats" says that there are cats, not how many
            mentions.append(mention)
            if related and related[0].concept != value:
                statements["relations", related[0].concept, related[1], value] = None
            related = ahead = count = size = None
    for mention in mentions:
        statements.update(dict.fromkeys(_of_mention(mention)))
    return Reading(tuple(statements))


def named_concepts(caption: str, concepts: Iterable[str] = ()) -> list[str]:
    """The objects that a caption names, in order and as often as it does; see ``parse_caption``."""
    tokens = _tokens(caption, frozenset(concepts) - set(nouns("default")))
    return [value for kind, value in tokens if kind == "concept"]


def _of_mention(mention: _Mention) -> list[Statement]:
    found: list[Statement] = [("objects", mention.concept)]
    if mention.count > 1:
        found.append(("counts", mention.concept, str(mention.count)))
    for size, position in [(mention.size, mention.position), *mention.members]:
        if size:
            found.append(("sizes", mention.concept, size))
        if position:
            found.append(("positions", mention.concept, position))
    return found


def _is_true(statement: Statement, scene: Scene) -> bool:
    part, subject = statement[0], statement[1]
    items = [item for item in scene.items if item.concept == subject]
    if part == "background":
        return scene.background == subject
    if part == "objects":
        return bool(items)
    if part == "counts":
        return len(items) == int(statement[2])
    if part == "sizes":
        return any(item.size == statement[2] for item in items)
    if part == "positions":
        return any(_agrees(statement[2], item.position) for item in items)
    others = [item for item in scene.items if item.concept == statement[3]]
    return any(_lies(statement[2], item.x - o.x, item.y - o.y) for item in items for o in others)


def _agrees(said: str, cell: str) -> bool:
    """ "left" is true of "top left", "top left" is not true of "left"."""
    (column, row), (true_column, true_row) = CELLS[said], CELLS[cell]
    if said == "middle":
        return cell == "middle"
    return column in (0, true_column) and row in (0, true_row)


def _lies(how: str, dx: float, dy: float) -> bool:
    return {"left of": dx < -0.05, "right of": dx > 0.05, "above": dy < -0.05, "below": dy > 0.05}[how]


def _nameable(scene: Scene) -> dict[Statement, None]:
    """Every statement that a complete caption makes; relations of pairs that stand alone in one direction."""
    found: dict[Statement, None] = {("background", scene.background): None}
    for item in scene.items:
        number = sum(other.concept == item.concept for other in scene.items)
        found["objects", item.concept] = None
        if number > 1:
            found["counts", item.concept, str(number)] = None
        found["sizes", item.concept, item.size] = None
        found["positions", item.concept, item.position] = None
        for other in scene.items:
            if other.concept != item.concept and (how := relation(item, other)) in ("left of", "above"):
                found["relations", item.concept, how, other.concept] = None
    return found


_MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _canonical(statement: Statement) -> Statement:
    """ "b right of a" says the same as "a left of b"."""
    if statement[0] == "relations" and statement[2] in ("right of", "below"):
        return ("relations", statement[3], _MIRROR[statement[2]], statement[1])
    return statement


def scene_counts(caption: str, factors: Mapping[str, Any], concepts: Iterable[str] = ()) -> dict[str, int]:
    """The sufficient statistics of one image: "<part>-said", "-true", "-nameable", "-named" for every part.

    Args:
        caption: The candidate.
        factors: The record of its image.
        concepts: Names to read beyond the default vocabulary and the image's own.
    """
    scene = Scene.from_factors(dict(factors))
    said = parse_caption(caption, {*concepts, *(item.concept for item in scene.items)}).statements
    nameable = _nameable(scene)
    named = {_canonical(statement) for statement in said} & set(nameable)
    counts: dict[str, int] = {}
    for part in PARTS:
        of_part = [statement for statement in said if statement[0] == part]
        counts[f"{part}-said"] = len(of_part)
        counts[f"{part}-true"] = sum(_is_true(statement, scene) for statement in of_part)
        counts[f"{part}-nameable"] = sum(statement[0] == part for statement in nameable)
        counts[f"{part}-named"] = sum(statement[0] == part for statement in named)
    return counts


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return _ratio(2 * precision * recall, precision + recall)


def _summary(counts: Mapping[str, int]) -> dict[str, float]:
    scores: dict[str, float] = {}
    total = {suffix: 0 for suffix in ("said", "true", "nameable", "named")}
    for part in PARTS:
        for suffix in total:
            total[suffix] += counts[f"{part}-{suffix}"] if part != "relations" or suffix in ("said", "true") else 0
        scores[f"{part}-P"] = _ratio(counts[f"{part}-true"], counts[f"{part}-said"])
        scores[f"{part}-R"] = _ratio(counts[f"{part}-named"], counts[f"{part}-nameable"])
        scores[f"{part}-F1"] = _f1(scores[f"{part}-P"], scores[f"{part}-R"])
    scores["scene-P"] = _ratio(total["true"], total["said"])
    scores["scene-R"] = _ratio(total["named"], total["nameable"])
    scores["scene-F1"] = _f1(scores["scene-P"], scores["scene-R"])
    scores["hallucination"] = _ratio(counts["objects-said"] - counts["objects-true"], counts["objects-said"])
    return scores


def score_scenes(
    candidates: Mapping[str, str], factors: Mapping[str, Mapping[str, Any]], *, per_image: bool = False
) -> dict[str, Any]:
    """Scores captions against the factors of their images.

    Args:
        candidates: Image id -> caption.
        factors: Image id -> factor record (the parsed JSON of the column ``factors``).
        per_image: Also return "images": id -> the same scores of that image alone, and its counts.

    Returns:
        Over the whole set (statements pooled), in [0, 1]: "scene-P", "scene-R", "scene-F1"; "<part>-P", "-R", "-F1"
        for objects, counts, sizes, positions, relations, background; "hallucination", the share of the named objects
        that are not there, and "hallucination-images", the share of images with one. Relations count in scene-P but
        not in scene-R, because positions imply them.

    Raises:
        DataError: If the ids differ.
    """
    if set(candidates) != set(factors):
        odd = sorted(set(candidates) ^ set(factors))[:3]
        raise DataError(f"candidates and factors must have the same ids; {len(candidates)} and {len(factors)} were "
                        f"given, and they differ in {', '.join(map(repr, odd))}")  # fmt: skip
    concepts = {item["concept"] for record in factors.values() for item in record["objects"]}
    counts = {name: scene_counts(caption, factors[name], concepts) for name, caption in candidates.items()}
    pooled = {key: sum(c[key] for c in counts.values()) for key in next(iter(counts.values()), {})}
    if not pooled:
        raise DataError("no captions were given; score_scenes needs at least one")
    scores: dict[str, Any] = dict(_summary(pooled))
    wrong = sum(c["objects-said"] > c["objects-true"] for c in counts.values())
    scores["hallucination-images"] = wrong / len(counts)
    if per_image:
        scores["images"] = {name: _summary(c) | {"counts": c} for name, c in counts.items()}
    return scores
