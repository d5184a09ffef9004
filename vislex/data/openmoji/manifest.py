"""The committed manifest read into pools: which drawings a split may show, and which combinations it may not."""

from __future__ import annotations

import csv
import functools
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from importlib import resources

from vislex.data.openmoji.draws import SUITE_VERSION, stable_hash
from vislex.data.openmoji.lexicon import BACKGROUNDS, CELLS
from vislex.errors import UnknownNameError, did_you_mean

__all__ = [
    "SPLITS", "VOCABULARIES", "Drawing", "Pool", "check_split", "check_vocabulary", "held_background", "held_position",
    "manifest_sha256", "nouns", "pair_is_held_out", "pool",
]  # fmt: skip

SPLITS = ("train", "val", "test_seen", "test_composition", "test_artist", "test_unknown")
VOCABULARIES = ("core", "default", "large")
_HELD_OUT_PAIRS = 8  # one unordered pair of concepts in eight never meets in training


@dataclass(frozen=True)
class Drawing:
    """One SVG of one artist."""

    code: str
    name: str
    family: str
    artist: str
    split: str
    vocabulary: str


@dataclass(frozen=True)
class Pool:
    """What the scenes of a split are made of.

    Attributes:
        names: Concepts, in a fixed order.
        drawings: The (code, artist) pairs that may stand for each.
        combinations: "trained" (no held-out combination), "held_out" (at least one) or "any".
    """

    names: tuple[str, ...]
    drawings: dict[str, tuple[tuple[str, str], ...]]
    combinations: str

    @functools.cached_property
    def partners(self) -> dict[str, tuple[str, ...]]:
        """For each concept the concepts that it never meets in training."""
        return {
            name: tuple(other for other in self.names if other != name and pair_is_held_out(name, other))
            for name in self.names
        }


def check_split(split: str) -> None:
    """Raises UnknownNameError unless the suite has the split."""
    if split not in SPLITS:
        raise UnknownNameError(f"unknown split '{split}'{did_you_mean(split, SPLITS)} Splits are {', '.join(SPLITS)}")


def check_vocabulary(vocabulary: str) -> None:
    """Raises UnknownNameError unless the suite has the vocabulary."""
    if vocabulary not in VOCABULARIES:
        raise UnknownNameError(
            f"unknown vocabulary '{vocabulary}'{did_you_mean(vocabulary, VOCABULARIES)} "
            f"Vocabularies are {', '.join(VOCABULARIES)}"
        )


def _listed(vocabulary: str) -> tuple[str, ...]:
    return VOCABULARIES[: VOCABULARIES.index(vocabulary) + 1]  # each contains those before it


def _text() -> str:
    return resources.files("vislex.data.openmoji").joinpath("manifest.csv").read_text(encoding="utf-8")


@functools.cache
def manifest_sha256() -> str:
    """The hash of the committed manifest."""
    return hashlib.sha256(_text().encode()).hexdigest()


@functools.cache
def _drawings() -> tuple[Drawing, ...]:
    return tuple(Drawing(**row) for row in csv.DictReader(_text().splitlines()))


@functools.cache
def nouns(vocabulary: str = "default") -> tuple[str, ...]:
    """The concepts of a vocabulary that training may show, sorted."""
    check_vocabulary(vocabulary)
    listed = _listed(vocabulary)
    return tuple(sorted({d.name for d in _drawings() if d.vocabulary in listed and d.split != "test_unknown"}))


@functools.cache
def pool(split: str, vocabulary: str = "default") -> Pool:
    """The pool of a split.

    Raises:
        UnknownNameError: If there is no such split or vocabulary.
    """
    check_split(split)
    check_vocabulary(vocabulary)
    listed = set(VOCABULARIES) if split == "test_unknown" else set(_listed(vocabulary))
    wanted = split if split in ("test_artist", "test_unknown") else "train"
    found = defaultdict(list)
    for drawing in _drawings():
        if drawing.split == wanted and drawing.vocabulary in listed:
            found[drawing.name].append((drawing.code, drawing.artist))
    combinations = {"test_composition": "held_out", "test_unknown": "any"}.get(split, "trained")
    return Pool(tuple(sorted(found)), {name: tuple(found[name]) for name in sorted(found)}, combinations)


@functools.lru_cache(maxsize=1 << 18)
def pair_is_held_out(first: str, second: str) -> bool:
    """Whether two concepts meet in ``test_composition`` only."""
    low, high = sorted((first, second))
    return low != high and stable_hash(SUITE_VERSION, "pair", low, high) % _HELD_OUT_PAIRS == 0


@functools.cache
def held_background(name: str) -> str:
    """The one background colour that a concept has in ``test_composition`` only."""
    return list(BACKGROUNDS)[stable_hash(SUITE_VERSION, "background", name) % len(BACKGROUNDS)]


@functools.cache
def held_position(name: str) -> str:
    """The one position that a concept takes in ``test_composition`` only."""
    return list(CELLS)[stable_hash(SUITE_VERSION, "position", name) % len(CELLS)]
