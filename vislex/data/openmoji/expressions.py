"""Referring expressions: each is true of exactly one drawing of its scene, and not nearly true of another."""

from __future__ import annotations

from collections.abc import Callable

from vislex.data.openmoji.captions import relation
from vislex.data.openmoji.draws import Draws
from vislex.data.openmoji.lexicon import CELLS, POSITION_PHRASES, RELATION_PHRASES, SIZE_WORDS
from vislex.data.openmoji.manifest import pool
from vislex.data.openmoji.scenes import Item, Scene, Slot, compose

__all__ = ["expressions", "referring"]

# How the drawings of a scene share concepts; more twins than in captions, so that the name alone is often not enough.
_PARTITIONS = (
    ((1,), 0.08), ((1, 1), 0.17), ((2,), 0.2), ((1, 1, 1), 0.13), ((2, 1), 0.15), ((3,), 0.05),
    ((1, 1, 1, 1), 0.07), ((2, 1, 1), 0.1), ((2, 2), 0.05),
)  # fmt: skip
_SIDE_STEP = 0.03


def _inside(cell: str, other: str) -> bool:
    """Whether an item at ``other`` is also what ``cell`` describes: "left" describes "top left" too."""
    (column, row), (other_column, other_row) = CELLS[cell], CELLS[other]
    if (column, row) == (0, 0):
        return (other_column, other_row) == (0, 0)
    return column in (0, other_column) and row in (0, other_row)


def _nearly(found: str, item: Item, anchor: Item) -> bool:
    """Whether one could say that an item stands in the relation to the anchor."""
    dx, dy = item.x - anchor.x, item.y - anchor.y
    return {
        "left of": dx < -_SIDE_STEP, "right of": dx > _SIDE_STEP, "above": dy < -_SIDE_STEP, "below": dy > _SIDE_STEP
    }[found]  # fmt: skip


def expressions(scene: Scene, target: int, draws: Draws, *, named: bool = True) -> list[str]:
    """The expressions that single out an item, one of each form that does.

    Args:
        scene: Factors.
        target: Index into ``scene.items``.
        draws: For synonyms.
        named: False calls everything "object".
    """
    item = scene.items[target]
    noun = item.concept if named else "object"
    rivals = [o for i, o in enumerate(scene.items) if i != target and (not named or o.concept == item.concept)]
    size, place = draws.choice(SIZE_WORDS[item.size]), draws.choice(POSITION_PHRASES[item.position])
    same_size = [o for o in rivals if o.size == item.size]
    same_place = [o for o in rivals if _inside(item.position, o.position)]
    found = []
    if not rivals:
        found.append(f"the {noun}")
    if not same_size:
        found.append(f"the {size} {noun}")
    if not same_place:
        found.append(f"the {noun} {place}")
    if same_size and same_place and not [o for o in same_size if o in same_place]:
        found.append(f"the {size} {noun} {place}")
    if len(rivals) == 1:
        found += _compared(item, rivals[0], noun)
    for i, anchor in enumerate(scene.items if named else ()):
        alone = sum(o.concept == anchor.concept for o in scene.items) == 1
        how = relation(item, anchor) if i != target and alone else None
        if how and not any(_nearly(how, o, anchor) for o in rivals):
            found.append(f"the {noun} {draws.choice(RELATION_PHRASES[how])} the {anchor.concept}")
    return found


def _compared(item: Item, other: Item, noun: str) -> list[str]:
    found = []
    if item.size != other.size:
        found.append(f"the {'larger' if item.scale > other.scale else 'smaller'} {noun}")
    checks: tuple[tuple[str, Callable[[Item], float]], ...] = (("left", lambda i: i.x), ("right", lambda i: -i.x))
    for side, along in checks:
        if along(other) - along(item) > 0.2:
            found.append(f"the {side}most {noun}")
    return found


def referring(seed: int, split: str, vocabulary: str, index: int) -> tuple[Scene, str, int]:
    """A scene, an expression, and the index of the item that it means."""
    draws = Draws(seed, split, vocabulary, "segmentation", index=index)
    source = pool(split, vocabulary)
    while True:
        partition = draws.weighted(*zip(*_PARTITIONS, strict=True))
        slots = [Slot(group) for group, members in enumerate(partition) for _ in range(members)]
        scene = compose(draws, source, slots)
        target = draws.below(len(scene.items))
        if found := expressions(scene, target, draws, named=split != "test_unknown"):
            return scene, draws.choice(found), target
