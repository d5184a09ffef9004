"""Scenes: one to four drawings on a background, a pure function of (seed, split, vocabulary, index).

Factors come in three tiers. Always named in captions: the concept. Sometimes named: position, size, background colour,
count. Never named: rotation, hue shift, exact offset and scale, artist, exact shade of the background.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vislex.data.openmoji.draws import SUITE_VERSION, Draws
from vislex.data.openmoji.lexicon import BACKGROUNDS, CELLS, SIZES
from vislex.data.openmoji.manifest import Pool, held_background, held_position, pair_is_held_out, pool

__all__ = ["Item", "Scene", "Slot", "compose", "sample_scene"]

MAX_ROTATION = 30.0  # degrees
MAX_HUE_SHIFT = 18.0  # degrees
MAX_OVERLAP = 0.12  # of the smaller drawing's box
_ATTEMPTS = 24

# Number of drawings -> how they share concepts, with weights.
_N_WEIGHTS = (0.30, 0.30, 0.20, 0.20)
_GROUPS: dict[int, tuple[tuple[tuple[int, ...], float], ...]] = {
    1: (((1,), 1.0),),
    2: (((1, 1), 0.7), ((2,), 0.3)),
    3: (((1, 1, 1), 0.55), ((2, 1), 0.3), ((3,), 0.15)),
    4: (((1, 1, 1, 1), 0.4), ((2, 1, 1), 0.25), ((2, 2), 0.1), ((3, 1), 0.1), ((4,), 0.15)),
}
_SIZE_WEIGHTS = {1: (0.2, 0.3, 0.5), 2: (0.3, 0.35, 0.35), 3: (0.4, 0.4, 0.2), 4: (0.45, 0.45, 0.1)}


@dataclass(frozen=True)
class Item:
    """One drawing in a scene; lengths are shares of the image's side, the origin is the top left corner.

    Attributes:
        concept: Name.
        code: Code points of the drawing.
        artist: "openmoji" or "twemoji".
        size: "small", "medium" or "large".
        position: One of nine, e.g. "top left".
        x, y: Centre.
        scale: Longer side of the drawing before rotation.
        rotation: Degrees, counter-clockwise.
        hue: Degrees.
    """

    concept: str
    code: str
    artist: str
    size: str
    position: str
    x: float
    y: float
    scale: float
    rotation: float
    hue: float


@dataclass(frozen=True)
class Scene:
    """The full factor record of an image; ``items`` are in drawing order, a later one hides an earlier one."""

    background: str
    background_rgb: tuple[int, int, int]
    items: tuple[Item, ...]
    mirrored: bool = False

    def factors(self) -> dict[str, Any]:
        """The record as plain values, for JSON."""
        return {
            "suite": SUITE_VERSION,
            "background": self.background,
            "background_rgb": list(self.background_rgb),
            "count": len(self.items),
            "mirrored": self.mirrored,
            "objects": [dict(vars(item)) for item in self.items],
        }

    @classmethod
    def from_factors(cls, factors: dict[str, Any]) -> Scene:
        """The scene of a record."""
        return cls(
            background=factors["background"],
            background_rgb=tuple(factors["background_rgb"]),
            items=tuple(Item(**item) for item in factors["objects"]),
            mirrored=factors["mirrored"],
        )

    def mirror(self) -> Scene:
        """The scene as its mirror image: left becomes right."""
        swap = {"left": "right", "right": "left"}
        items = tuple(
            dataclasses.replace(
                item,
                x=round(1.0 - item.x, 4),
                rotation=-item.rotation,
                position=" ".join(swap.get(word, word) for word in item.position.split()),
            )
            for item in self.items
        )
        return dataclasses.replace(self, items=items, mirrored=not self.mirrored)


@dataclass
class Slot:
    """A place in a scene to be filled; None is drawn at random. Slots with the same ``group`` share a concept."""

    group: int
    concept: str | None = None
    size: str | None = None
    position: str | None = None


def sample_scene(seed: int, split: str, vocabulary: str, index: int, *, stream: str = "scene") -> Scene:
    """The scene at an index; any index, in any order, at once."""
    draws = Draws(seed, split, vocabulary, stream, index=index)
    n = draws.weighted((1, 2, 3, 4), _N_WEIGHTS)
    partition = draws.weighted(*zip(*_GROUPS[n], strict=True))
    slots = [Slot(group) for group, members in enumerate(partition) for _ in range(members)]
    return compose(draws, pool(split, vocabulary), slots)


def compose(
    draws: Draws,
    source: Pool,
    slots: Sequence[Slot],
    *,
    background: str | None = None,
    exclude: Sequence[str] = (),
) -> Scene:
    """Fills the slots from a pool and lays them out.

    Args:
        draws: Where the randomness comes from.
        source: Concepts, drawings and the rule on combinations.
        slots: One a drawing; what is given is kept.
        background: Colour name, or None to draw one.
        exclude: Concepts that must not appear.
    """
    chosen: dict[int, str] = {slot.group: slot.concept for slot in slots if slot.concept}
    if source.combinations == "held_out":
        background = _hold_out(draws, source, slots, chosen, background, exclude)
    if background is None:
        banned = {held_background(name) for name in chosen.values()} if source.combinations == "trained" else set()
        background = draws.choice([colour for colour in BACKGROUNDS if colour not in banned])
    for group in dict.fromkeys(slot.group for slot in slots):
        if group not in chosen:
            chosen[group] = _choose_concept(draws, source, list(chosen.values()), background, exclude)
    places = _layout(draws, [chosen[slot.group] for slot in slots], slots, source.combinations == "trained")

    light = draws.below(21) - 10
    red, green, blue = (min(max(c + light + draws.below(7) - 3, 0), 255) for c in BACKGROUNDS[background])
    items = []
    for slot, (size, scale, position, x, y) in zip(slots, places, strict=True):
        code, artist = draws.choice(source.drawings[chosen[slot.group]])
        rotation = draws.uniform(-MAX_ROTATION, MAX_ROTATION)
        hue = draws.uniform(-MAX_HUE_SHIFT, MAX_HUE_SHIFT)
        items.append(Item(chosen[slot.group], code, artist, size, position, x, y, scale, rotation, hue))
    items.sort(key=lambda item: (-item.scale, item.x, item.y))
    return Scene(background, (red, green, blue), tuple(items))


def _choose_concept(
    draws: Draws, source: Pool, others: Sequence[str], background: str | None, exclude: Sequence[str]
) -> str:
    """A concept that differs from the others and, for training, forms no held-out combination with them."""
    while True:
        name = draws.choice(source.names)
        if name in others or name in exclude:
            continue
        if source.combinations != "trained":
            return name
        if held_background(name) != background and not any(pair_is_held_out(name, other) for other in others):
            return name


def _hold_out(
    draws: Draws,
    source: Pool,
    slots: Sequence[Slot],
    chosen: dict[int, str],
    background: str | None,
    exclude: Sequence[str],
) -> str | None:
    """Makes sure of one held-out combination: a pair, or a concept's background or position. Returns the background."""
    groups = list(dict.fromkeys(slot.group for slot in slots))
    if any(pair_is_held_out(a, b) for a, b in itertools.combinations(chosen.values(), 2)):
        return background
    first = groups[0]
    if first not in chosen:
        names = [n for n in source.names if n not in exclude and n not in chosen.values()]
        if len(groups) == 1 and background is not None:
            names = [name for name in names if held_background(name) == background]
        chosen[first] = draws.choice(names)
    free = [group for group in groups if group not in chosen]
    if free:
        taken = {*chosen.values(), *exclude}
        chosen[free[0]] = draws.choice([name for name in source.partners[chosen[first]] if name not in taken])
        return background
    if slots[0].position is None and (background is not None or draws.chance(0.5)):
        slots[0].position = held_position(chosen[first])
        return background
    return background or held_background(chosen[first])


Place = tuple[str, float, str, float, float]


def _layout(draws: Draws, concepts: Sequence[str], slots: Sequence[Slot], trained: bool) -> list[Place]:
    """Size, scale, position, x and y of every slot, such that drawings hardly overlap."""
    shrink = 0
    for attempt in range(_ATTEMPTS):
        shrink += attempt >= _ATTEMPTS // 3 and attempt % 4 == 0
        most = MAX_OVERLAP if attempt < _ATTEMPTS - 4 else 2 * MAX_OVERLAP if attempt < _ATTEMPTS - 1 else 1.0
        weights = _SIZE_WEIGHTS[len(slots)]
        sizes = [slot.size or draws.weighted(tuple(SIZES), weights) for slot in slots]
        if shrink:
            order = list(SIZES)
            sizes = [slot.size or order[max(order.index(s) - shrink, 0)] for slot, s in zip(slots, sizes, strict=True)]
        places: dict[int, Place] = {}
        fixed_first = sorted(range(len(slots)), key=lambda i: (slots[i].position is None, -SIZES[sizes[i]]))
        for i in fixed_first:
            scale = round(SIZES[sizes[i]] * draws.uniform(0.93, 1.07), 4)
            if (place := _find_place(draws, concepts[i], slots[i], sizes[i], scale, places, trained, most)) is None:
                break
            places[i] = place
        else:
            return [places[i] for i in range(len(slots))]
    raise AssertionError(f"no layout for {slots}")


def _find_place(
    draws: Draws,
    concept: str,
    slot: Slot,
    size: str,
    scale: float,
    others: dict[int, Place],
    trained: bool,
    most: float,
) -> Place | None:
    cells = [slot.position] if slot.position else list(CELLS)
    draws.shuffle(cells)
    for cell in cells:
        if slot.position is None and trained and cell == held_position(concept):
            continue
        column, row = CELLS[cell]
        x, y = _coordinate(draws, column, scale), _coordinate(draws, row, scale)
        if all(_overlap(scale, x, y, other[1], other[3], other[4]) <= most for other in others.values()):
            return size, scale, cell, x, y
    return None


def _coordinate(draws: Draws, side: int, scale: float) -> float:
    """The centre along one axis: within 0.04 of the middle, or a little off the border."""
    if side == 0:
        return draws.uniform(0.46, 0.54)
    off = 0.54 * scale + draws.uniform(0.01, 0.06)
    return round(off if side < 0 else 1.0 - off, 4)


def _overlap(scale: float, x: float, y: float, other_scale: float, other_x: float, other_y: float) -> float:
    """Shared area of two boxes, a little smaller than the drawings' own, over the smaller one's."""
    reach = 0.45 * (scale + other_scale)
    smaller = 0.9 * min(scale, other_scale)
    width, height = (min(max(reach - abs(a - b), 0.0), smaller) for a, b in ((x, other_x), (y, other_y)))
    return width * height / smaller**2
