"""Questions that a blind model cannot answer, and expressions that mean one drawing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from vislex.data import load_suite
from vislex.data.openmoji.lexicon import CELLS, RELATION_PHRASES, SIZE_WORDS
from vislex.data.openmoji.manifest import nouns, pool
from vislex.data.openmoji.questions import QUESTION_TYPES, SIDES, UNNAMED_TYPES, question_pair
from vislex.data.openmoji.scenes import Item, Scene
from vislex.data.openmoji.suite import row


def vqa(split: str, n: int) -> list[dict]:
    return [row("vqa", index, split=split, vocabulary="core") for index in range(n)]


@pytest.fixture(scope="module")
def trained() -> list[dict]:
    return vqa("train", 3000)


def test_pairs_are_complementary() -> None:
    for split in ("train", "test_composition", "test_artist", "test_unknown"):
        for pair in range(150):
            first, second = question_pair(0, split, "core", pair)
            assert (first.text, first.type) == (second.text, second.type)
            assert first.answer != second.answer
            assert first.scene != second.scene


def test_a_blind_model_scores_chance(trained: list[dict]) -> None:
    """The best guess by template, and by the exact question, learned on train and tried on new scenes."""
    chance = {"existence": 2, "background-yes-no": 2, "background": 8, "count": 4, "count-all": 4, "where": 9, 
              "side": 2, "size": 3, "what": 100, "relation": 2, "comparison": 2}  # fmt: skip
    assert set(chance) == set(QUESTION_TYPES)
    for key in ("question_type", "question"):
        guesses = defaultdict(Counter)
        for r in trained:
            guesses[r[key]][r["answer"]] += 1
        right, expected = [], []
        for r in vqa("test_seen", 1600):
            known = guesses.get(r[key])
            right.append(bool(known) and known.most_common(1)[0][0] == r["answer"])
            expected.append(1 / chance[r["question_type"]])
        assert np.mean(right) <= np.mean(expected) + 0.03


def test_answers_are_uniform_within_every_template(trained: list[dict]) -> None:
    by_type = defaultdict(Counter)
    for r in trained:
        by_type[r["question_type"]][r["answer"]] += 1
    for kind in ("existence", "background-yes-no", "background", "count", "count-all", "side", "size", "relation"):
        shares = np.array(list(by_type[kind].values())) / by_type[kind].total()
        assert shares.max() <= 1 / len(shares) + 0.06, kind


def test_answers_are_true(trained: list[dict]) -> None:
    seen = set()
    for r in trained[:1500]:
        scene = Scene.from_factors(json.loads(r["factors"]))
        text, answer, kind = r["question"], r["answer"], r["question_type"]
        of = {name: [i for i in scene.items if i.concept == name] for name in {i.concept for i in scene.items}}
        assert r["answers"] == [answer] * 10
        seen.add(kind)
        if kind == "background":
            assert answer == scene.background
        elif kind == "background-yes-no":
            assert (answer == "yes") == (f" {scene.background}" in text)
        elif kind == "count-all":
            assert int(answer) == len(scene.items)
        elif kind == "existence":
            asked = [name for name in nouns("core") if f" {name} " in f"{text.rstrip('?')} "]
            assert (answer == "yes") == (max(asked, key=len) in of)
        elif kind == "count":
            assert int(answer) in {len(items) for items in of.values()}
        elif kind == "comparison":
            pair = sorted((items[0].scale, name) for name, items in of.items() if name in text)
            assert answer == pair[-1 if "larger" in text else 0][1]
        elif kind == "what":
            assert of[answer][0].position in text
        elif kind in ("where", "side", "size"):
            (item,) = next(items for name, items in of.items() if f"the {name} " in text.replace("?", " "))
            assert answer == {"where": item.position, "size": item.size}.get(kind, answer)
            assert kind != "side" or item.position in SIDES[answer]
    assert seen == set(QUESTION_TYPES)


def test_unknown_drawings_are_never_asked_by_name() -> None:
    names = pool("test_unknown", "core").names
    for r in vqa("test_unknown", 200):
        assert r["question_type"] in UNNAMED_TYPES
        assert not any(f"the {name}" in r["question"] for name in names)


def meant(expression: str, items: tuple[Item, ...]) -> list[int]:
    """An independent reading of an expression: the items that it can mean, generously."""
    words = f" {expression.removeprefix('the')} "
    anchor, how = None, None
    for relation, phrases in RELATION_PHRASES.items():
        for phrase in phrases:
            if f" {phrase} the " in words:
                words, rest = words.split(f" {phrase} the ", 1)
                words, anchor, how = words + " ", rest.strip(), relation
    concepts = sorted({i.concept for i in items if f" {i.concept} " in words}, key=len)
    found = [k for k, i in enumerate(items) if i.concept == concepts[-1]] if concepts else list(range(len(items)))
    words = words.replace(f" {concepts[-1]} ", " ", 1) if concepts else words
    for size, synonyms in SIZE_WORDS.items():
        if any(f" {word} " in words for word in synonyms):
            found = [k for k in found if items[k].size == size]
    if "larger" in words or "smaller" in words:
        found = [max(found, key=lambda k: items[k].scale * (1 if "larger" in words else -1))]
    if "leftmost" in words or "rightmost" in words:
        found = [min(found, key=lambda k: items[k].x * (1 if "leftmost" in words else -1))]
    else:
        words = words.replace("upper", "top").replace("lower", "bottom").replace("center", "middle")
        for part in ("left", "right", "top", "bottom", "middle"):
            if f" {part} " in words:
                found = [k for k in found if part in items[k].position.split()]
    if anchor:
        other = next(i for i in items if i.concept == anchor)
        found = [
            k for k in found
            if {"left of": items[k].x < other.x, "right of": items[k].x > other.x,
                "above": items[k].y < other.y, "below": items[k].y > other.y}[how]
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("split", ["train", "test_composition", "test_unknown"])
def test_expressions_mean_exactly_their_target(split: str) -> None:
    forms = Counter()
    for index in range(300):
        r = row("segmentation", index, split=split, vocabulary="core")
        items = Scene.from_factors(json.loads(r["factors"])).items
        assert meant(r["expression"], items) == [r["target"]], r["expression"]
        forms[len(r["expression"].split())] += 1
    assert len(forms) > 3
    assert set(CELLS) >= {i.position for i in items}


def test_masks_come_with_their_expressions() -> None:
    data = load_suite("openmoji", "segmentation", split="test_seen", size=20, vocabulary="core", image_size=48)
    for r in data:
        assert set(r) == {"id", "index", "image", "expression", "mask", "factors"}
        assert r["mask"].dtype == bool
        assert r["mask"].shape == (48, 48)
        assert 0.004 < r["mask"].mean() < 0.5
    questions = load_suite("openmoji", "vqa", split="test_seen", size=4, vocabulary="core", image_size=32)
    assert set(questions[0]) == {"id", "index", "image", "question", "answer", "answers", "question_type", "factors"}
