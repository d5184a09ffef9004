"""Questions whose answers no blind model can guess: the answer is drawn first, the scene is built to it.

Rows 2k and 2k + 1 are a complementary pair: one question, two images, two answers. Within every template, and for every
wording of it, answers are uniform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vislex.data.openmoji.draws import Draws
from vislex.data.openmoji.lexicon import BACKGROUNDS, CELLS, SIZES, article, plural
from vislex.data.openmoji.manifest import Pool, held_position, pair_is_held_out, pool
from vislex.data.openmoji.scenes import Scene, Slot, compose

__all__ = ["QUESTION_TYPES", "UNNAMED_TYPES", "Question", "question_pair"]

SIDES = {"left": ("top left", "left", "bottom left"), "right": ("top right", "right", "bottom right")}


@dataclass
class Plan:
    """What a question asks, and for each of its two answers what the scene must hold."""

    text: str
    answers: tuple[str, str]
    slots: tuple[list[Slot], list[Slot]]
    backgrounds: tuple[str | None, str | None] = (None, None)
    exclude: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))


@dataclass(frozen=True)
class Question:
    """A question on a scene with its answer."""

    scene: Scene
    text: str
    answer: str
    type: str


def _two(draws: Draws, options: list[str]) -> tuple[str, str]:
    """Two different answers in a random order, uniform over all pairs."""
    first = draws.choice(options)
    return first, draws.choice([option for option in options if option != first])


def _concept(draws: Draws, source: Pool, others: tuple[str, ...] = ()) -> str:
    while True:
        name = draws.choice(source.names)
        if name not in others and not (
            source.combinations == "trained" and any(pair_is_held_out(name, other) for other in others)
        ):
            return name


def _extra(draws: Draws, slots: list[Slot], most: int = 4) -> list[Slot]:
    """The slots with up to ``most`` in all: others of their own concepts."""
    room = most - len(slots)
    start = max((slot.group for slot in slots), default=-1) + 1
    return slots + [Slot(start + i) for i in range(draws.below(room + 1) if room > 0 else 0)]


def _exists(draws: Draws, source: Pool) -> Plan:
    name = _concept(draws, source)
    yes = [Slot(0, name), *(Slot(i) for i in range(1, 1 + draws.below(4)))]
    no = [Slot(i) for i in range(1 + draws.below(4))]
    text = draws.choice((f"is there {article(name)} {name}?", f"is there {article(name)} {name} in the picture?",
                         f"can you see {article(name)} {name}?"))  # fmt: skip
    return Plan(text, ("yes", "no"), (yes, no), exclude=([], [name]))


def _is_background(draws: Draws, source: Pool) -> Plan:
    colour, other = _two(draws, list(BACKGROUNDS))
    text = draws.choice((f"is the background {colour}?", f"is this on {article(colour)} {colour} background?"))
    return Plan(text, ("yes", "no"), (_extra(draws, [Slot(0)]), _extra(draws, [Slot(0)])), (colour, other))


def _background(draws: Draws, source: Pool) -> Plan:
    first, second = _two(draws, list(BACKGROUNDS))
    text = draws.choice(("what color is the background?", "which color does the background have?"))
    return Plan(text, (first, second), (_extra(draws, [Slot(0)]), _extra(draws, [Slot(0)])), (first, second))


def _how_many(draws: Draws, source: Pool) -> Plan:
    name = _concept(draws, source)
    answers = _two(draws, ["1", "2", "3", "4"])
    first, second = (_extra(draws, [Slot(0, name) for _ in range(int(answer))]) for answer in answers)
    text = draws.choice((f"how many {plural(name)} are there?", f"how many {plural(name)} can you see?"))
    return Plan(text, answers, (first, second))


def _how_many_objects(draws: Draws, source: Pool) -> Plan:
    answers = _two(draws, ["1", "2", "3", "4"])
    first, second = ([Slot(i) for i in range(int(answer))] for answer in answers)
    text = draws.choice(("how many objects are there?", "how many things are in the picture?"))
    return Plan(text, answers, (first, second))


def _where(draws: Draws, source: Pool) -> Plan:
    name = _concept(draws, source)
    cells = list(CELLS)
    if source.combinations == "trained":
        cells.remove(held_position(name))
    answers = _two(draws, cells)
    first, second = (_extra(draws, [Slot(0, name, position=cell)], 3) for cell in answers)
    return Plan(draws.choice((f"where is the {name}?", f"in which part of the picture is the {name}?")),
                answers, (first, second))  # fmt: skip


def _which_side(draws: Draws, source: Pool) -> Plan:
    name = _concept(draws, source)
    sides = {side: list(cells) for side, cells in SIDES.items()}
    if source.combinations == "trained":
        sides = {side: [cell for cell in cells if cell != held_position(name)] for side, cells in sides.items()}
    first, second = (_extra(draws, [Slot(0, name, position=draws.choice(sides[side]))], 3) for side in sides)
    text = draws.choice((f"which side is the {name} on?", f"is the {name} on the left or on the right?",
                         f"is the {name} on the right or on the left?"))  # fmt: skip
    return Plan(text, ("left", "right"), (first, second))


def _size(draws: Draws, source: Pool) -> Plan:
    name = _concept(draws, source)
    answers = _two(draws, list(SIZES))
    first, second = (_extra(draws, [Slot(0, name, size=size)], 3) for size in answers)
    return Plan(draws.choice((f"what size is the {name}?", f"is the {name} small, medium or large?")),
                answers, (first, second))  # fmt: skip


def _what(draws: Draws, source: Pool) -> Plan:
    """What is in a corner or the middle, where no other drawing is meant; the answer is a name."""
    cell = draws.choice(("top left", "top right", "bottom left", "bottom right", "middle"))
    names = [name for name in source.names if source.combinations != "trained" or held_position(name) != cell]
    answers = _two(draws, names)
    first, second = (_extra(draws, [Slot(0, name, position=cell)], 3) for name in answers)
    place = cell if cell == "middle" else f"{cell} corner"
    return Plan(draws.choice((f"what is in the {place}?", f"which object is in the {place}?")),
                answers, (first, second))  # fmt: skip


_ENDS = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def _relation(draws: Draws, source: Pool) -> Plan:
    asked = draws.choice(tuple(_ENDS))
    column, row = _ENDS[asked]
    across = draws.choice((-1, 0, 1))  # both drawings in the same row, or column
    ends = [(column or across, row or across), (-column or across, -row or across)]
    places = [next(cell for cell, where in CELLS.items() if where == end) for end in ends]
    while True:
        first, second = _pair(draws, source)
        if source.combinations != "trained" or not {held_position(first), held_position(second)} & set(places):
            break
    slots = []
    for here, there in (places, places[::-1]):
        size = draws.choice(("small", "medium"))
        slots.append([Slot(0, first, size, here), Slot(1, second, size, there)])
    return Plan(f"is the {first} {asked} the {second}?", ("yes", "no"), (slots[0], slots[1]))


def _pair(draws: Draws, source: Pool) -> tuple[str, str]:
    first = _concept(draws, source)
    if source.combinations == "held_out":
        return first, draws.choice(source.partners[first])
    return first, _concept(draws, source, (first,))


def _larger(draws: Draws, source: Pool) -> Plan:
    first, second = _pair(draws, source)
    small, large = draws.choice((("small", "medium"), ("small", "large"), ("medium", "large")))
    slots = [[Slot(0, first, a), Slot(1, second, b)] for a, b in ((large, small), (small, large))]
    word = draws.choice(("larger", "smaller"))
    answers = (first, second) if word == "larger" else (second, first)
    return Plan(f"which is {word}, the {first} or the {second}?", answers, (slots[0], slots[1]))


def _without_name(plan: Plan) -> Plan:
    """The same question on a scene of one drawing, called "object"."""
    text = plan.text.replace(f"the {plan.slots[0][0].concept}", "the object", 1)
    return Plan(text, plan.answers, (plan.slots[0][:1], plan.slots[1][:1]))


_PLANS: dict[str, Callable[[Draws, Pool], Plan]] = {
    "existence": _exists,
    "background-yes-no": _is_background,
    "background": _background,
    "count": _how_many,
    "count-all": _how_many_objects,
    "where": _where,
    "side": _which_side,
    "size": _size,
    "what": _what,
    "relation": _relation,
    "comparison": _larger,
}
QUESTION_TYPES = tuple(_PLANS)
# Of a concept whose name was never trained on, a question may ask everything but the name, and must not use it.
UNNAMED_TYPES = ("background-yes-no", "background", "count-all", "where", "side", "size")


def question_pair(seed: int, split: str, vocabulary: str, pair: int) -> tuple[Question, Question]:
    """The two questions of a complementary pair: same words, other image, other answer."""
    draws = Draws(seed, split, vocabulary, "vqa", index=pair)
    source = pool(split, vocabulary)
    kind = draws.choice(UNNAMED_TYPES if split == "test_unknown" else QUESTION_TYPES)
    plan = _PLANS[kind](draws, source)
    if split == "test_unknown" and kind in ("where", "side", "size"):
        plan = _without_name(plan)
    order = (0, 1) if draws.chance(0.5) else (1, 0)
    questions = []
    for i in order:
        scene = compose(draws, source, plan.slots[i], background=plan.backgrounds[i], exclude=plan.exclude[i])
        questions.append(Question(scene, plan.text, plan.answers[i], kind))
    return questions[0], questions[1]
