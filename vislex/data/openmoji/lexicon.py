"""The words of the suite's grammar: factors, their synonyms, plurals and articles. The scene scorer reads the same."""

from __future__ import annotations

import functools

__all__ = [
    "BACKGROUNDS", "CELLS", "COLOUR_WORDS", "COUNT_WORDS", "POSITION_PHRASES", "RELATION_PHRASES", "SIZES",
    "SIZE_WORDS", "article", "plural",
]  # fmt: skip

# Named colour -> RGB in 0..255; drawings carry black outlines, so there is no black, and white is left to the drawings.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (232, 106, 98),
    "orange": (250, 176, 94),
    "yellow": (250, 230, 126),
    "green": (144, 208, 136),
    "blue": (124, 178, 238),
    "purple": (178, 142, 222),
    "pink": (250, 192, 218),
    "gray": (192, 194, 198),
}
COLOUR_WORDS: dict[str, str] = {name: name for name in BACKGROUNDS} | {"grey": "gray"}

# Size -> share of the image's side that the longer side of a drawing takes.
SIZES: dict[str, float] = {"small": 0.33, "medium": 0.46, "large": 0.60}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "medium"),
    "large": ("large", "big", "huge"),
}

# Position -> (column, row) in -1, 0, 1.
CELLS: dict[str, tuple[int, int]] = {
    "top left": (-1, -1), "top": (0, -1), "top right": (1, -1),
    "left": (-1, 0), "middle": (0, 0), "right": (1, 0),
    "bottom left": (-1, 1), "bottom": (0, 1), "bottom right": (1, 1),
}  # fmt: skip


def _corner(vertical: str, side: str) -> tuple[str, ...]:
    other = {"top": "upper", "bottom": "lower"}[vertical]
    return (
        f"at the {vertical} {side}",
        f"in the {vertical} {side} corner",
        f"in the {other} {side}",
        f"in the {other} {side} corner",
    )


POSITION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "on the top", "near the top"),
    "bottom": ("at the bottom", "on the bottom", "near the bottom"),
    "middle": ("in the middle", "in the center", "at the center"),
} | {f"{vertical} {side}": _corner(vertical, side) for vertical in ("top", "bottom") for side in ("left", "right")}

RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

COUNT_WORDS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four"}

_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet", "die": "dice", "wolf": "wolves",
    "knife": "knives", "leaf": "leaves", "scarf": "scarves", "sheep": "sheep", "deer": "deer", "moose": "moose",
    "fish": "fish", "squid": "squid", "ox": "oxen", "child": "children", "man": "men", "woman": "women",
    "person": "people", "piano": "pianos", "kangaroo": "kangaroos", "dodo": "dodos", "avocado": "avocados",
    "flamingo": "flamingos", "burrito": "burritos", "taco": "tacos", "radio": "radios", "ufo": "ufos",
    "rhino": "rhinos", "hippo": "hippos", "yo-yo": "yo-yos",
}  # fmt: skip


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith("o"):
        return word + "es"
    return word + "s"


@functools.cache
def plural(noun: str) -> str:
    """The plural of a noun phrase: "fire trucks", "mice", "pairs of socks"."""
    for joint in (" of ", " with "):
        head, found, rest = noun.partition(joint)
        if found:
            return _plural_word_of_phrase(head) + joint + rest
    return _plural_word_of_phrase(noun)


def _plural_word_of_phrase(phrase: str) -> str:
    *before, last = phrase.split(" ")
    return " ".join([*before, _plural_word(last)])


def article(phrase: str) -> str:
    """ "a" or "an" for the phrase that follows."""
    if phrase.startswith(("uni", "ufo", "one", "euro", "use")):
        return "a"
    return "an" if phrase[:1] in "aeiou" or phrase.startswith(("hour", "x-ray")) else "a"
