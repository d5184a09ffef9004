"""scene-F1: references are right about their own images and wrong about others; single statements are checked."""

from __future__ import annotations

import json

import pytest

from vislex.data.openmoji.scenes import Item, Scene
from vislex.data.openmoji.suite import row
from vislex.errors import DataError
from vislex.metrics.scene import PARTS, parse_caption, scene_counts, score_scenes

SCENE = Scene(
    "blue",
    (124, 178, 238),
    (
        Item("hot dog", "1F32D", "openmoji", "large", "bottom right", 0.7, 0.7, 0.6, 0.0, 0.0),
        Item("cat", "1F431", "openmoji", "small", "top left", 0.2, 0.2, 0.33, 0.0, 0.0),
        Item("cat", "1F431", "openmoji", "small", "bottom left", 0.2, 0.8, 0.33, 0.0, 0.0),
    ),
).factors()


def said(caption: str) -> set[tuple[str, ...]]:
    return set(parse_caption(caption).statements)


@pytest.mark.parametrize(("split", "style"), [
    ("train", "lossy"), ("test_composition", "lossy"), ("test_artist", "dense"), ("test_unknown", "lossy"),
])  # fmt: skip
def test_references_are_true_of_their_image(split: str, style: str) -> None:
    rows = [row("caption", index, split=split, style=style) for index in range(150)]
    factors = {r["id"]: json.loads(r["factors"]) for r in rows}
    for k in range(5):
        scores = score_scenes({r["id"]: r["captions"][k] for r in rows}, factors)
        assert scores["scene-P"] == scores["objects-P"] == scores["objects-R"] == 1.0
        assert scores["hallucination"] == scores["hallucination-images"] == 0.0
        assert scores["scene-R"] == 1.0 if style == "dense" else 0.3 < scores["scene-R"] < 0.7
    shuffled = {a["id"]: b["captions"][0] for a, b in zip(rows, rows[1:] + rows[:1], strict=True)}
    scores = score_scenes(shuffled, factors)
    assert scores["scene-F1"] < 0.15
    assert scores["hallucination"] > 0.8


def test_a_caption_becomes_statements() -> None:
    assert said("a tiny cat to the left of a big hot dog on a grey background") == {
        ("objects", "cat"), ("objects", "hot dog"), ("sizes", "cat", "small"), ("sizes", "hot dog", "large"),
        ("relations", "cat", "left of", "hot dog"), ("background", "gray"),
    }  # fmt: skip
    assert said("two mice, one at the top and a huge one in the lower left corner") == {
        ("objects", "mouse"), ("counts", "mouse", "2"), ("sizes", "mouse", "large"),
        ("positions", "mouse", "top"), ("positions", "mouse", "bottom left"),
    }  # fmt: skip
    assert said("In the middle is a star.") == {("objects", "star"), ("positions", "star", "middle")}
    assert said("nothing that we know") == set()


def test_what_is_right_and_what_is_wrong() -> None:
    def wrong(caption: str) -> list[str]:
        counts = scene_counts(caption, SCENE)
        return [part for part in PARTS if counts[f"{part}-true"] < counts[f"{part}-said"]]

    assert wrong("two small cats to the left of a hot dog on a blue background") == []
    assert wrong("a cat on the left") == []  # "left" is true of "top left"
    assert wrong("a dog") == ["objects"]
    assert wrong("three cats") == ["counts"]
    assert wrong("a big cat") == ["sizes"]
    assert wrong("a cat on the right") == ["positions"]
    assert wrong("a hot dog left of a cat") == ["relations"]
    assert wrong("a cat on a red background") == ["background"]


def test_scores_pool_statements_and_come_per_image() -> None:
    scores = score_scenes({"a": "a cat", "b": "a cat and a dog"}, {"a": SCENE, "b": SCENE}, per_image=True)
    assert scores["objects-P"] == pytest.approx(2 / 3)
    assert scores["objects-R"] == pytest.approx(0.5)
    assert scores["hallucination"] == pytest.approx(1 / 3)
    assert scores["hallucination-images"] == 0.5
    assert scores["images"]["a"]["objects-P"] == 1.0
    assert scores["images"]["b"]["objects-P"] == 0.5


def test_ids_must_agree() -> None:
    with pytest.raises(DataError, match="'b'"):
        score_scenes({"a": "a cat", "b": "a dog"}, {"a": SCENE})
