"""VQA scorers: the official one on 2,000 golden cases, the others on cases that follow from their definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vislex.errors import DataError
from vislex.metrics import vqa
from vislex.metrics.vqa_text import edit_distance, extract_choice, normalize_official, says_yes
from vislex.registry import registry

GOLDEN = Path(__file__).parents[1] / "golden" / "vqa" / "official.json"


def test_the_official_evaluation_bit_for_bit() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    cases = golden["cases"]
    assert len(cases) == 2000
    scores = [vqa.vqa_official(case["prediction"], case["answers"]) for case in cases]
    assert [round(100 * score, 12) for score in scores] == [case["accuracy_percent"] for case in cases]
    corpus = registry("scorers").get("vqa-official@1").load()
    overall = corpus([case["prediction"] for case in cases], [case["answers"] for case in cases])["accuracy"]
    assert 100 * overall == pytest.approx(golden["overall_percent"], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The, dog.", "dog"),  # a mark beside a space vanishes
        ("red/white", "red white"),  # another becomes a space
        ("1,000 a/b", "1000 ab"),  # a comma in a number makes every mark vanish
        ("U.S.A. 10.5", "usa 10.5"),  # no full stop before a digit
        ("." * 40, "." * 8),  # 32 at most
        ("None of ten apples", "0 of 10 apples"),
        ("an isnt shouldntve couldnt've y'allll", "isn't shouldntve couldn't've y'all'll"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_quirks_of_the_official_normalisation(text: str, normal: str) -> None:
    assert normalize_official(text) == normal


def test_equal_answers_are_not_normalised() -> None:
    assert vqa.vqa_official("Yes", ["yes"] * 10) == 0.0
    assert vqa.vqa_official("Yes", ["yes"] * 9 + ["no"]) == 1.0
    assert vqa.vqa_official("yes\n", ["yes"] * 10) == 1.0
    assert vqa.vqa_official("two", ["2", "b"] + ["c"] * 8) == pytest.approx(0.3)  # but for the one that is left out


def test_soft_accuracy_is_plain() -> None:
    answers = ["cat"] * 2 + ["Cat"] * 8
    assert vqa.vqa_soft("cat", answers) == pytest.approx(2 / 3)
    assert vqa.vqa_soft("Cat", answers) == 1.0
    assert vqa.vqa_official("cat", answers) == 1.0


def test_gqa() -> None:
    assert vqa.gqa_match(" Traffic-Light. ", "trafficlight") == 1.0
    assert vqa.gqa_match("lights", "light") == 0.0


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1), ("(b)", 1), ("b.", 1), ("1", 1), ("hot water", 1), ("Hot Water!", 1),
        ("B. hot water, it boils", 1), ("The answer is (C).", 2), ("Answer: A, not option B? No: the answer is A", 0),
        ("it must be hot water", 1), ("I think that ice is right", 2), ("water", 0), ("D", None), ("D. steam", None),
        ("7", None), ("", None), ("water or ice", None), ("²", None), ("the best option depends", None),
    ],
)  # fmt: skip
def test_the_choice_that_an_answer_means(prediction: str, expected: int | None) -> None:
    choices = ["water", "hot water", "ice"]
    assert extract_choice(prediction, choices) == expected
    for right in range(3):
        assert vqa.scienceqa(prediction, choices, right) == float(right == expected)


def test_the_text_of_a_choice_goes_before_its_letter_and_index() -> None:
    assert extract_choice("B", ["B", "A"]) == 0
    assert extract_choice("1", ["3", "2", "1"]) == 2
    assert extract_choice("same", ["same", "Same."]) is None


@given(st.text(max_size=30), st.lists(st.text(max_size=5), min_size=1, max_size=5))
def test_any_answer_has_a_choice_or_none(prediction: str, choices: list[str]) -> None:
    found = extract_choice(prediction, choices)
    assert found is None or 0 <= found < len(choices)


def test_anls() -> None:
    assert vqa.anls("Hello  World", ["hello world", "x"]) == 1.0
    assert vqa.anls("hella world", ["hello world"]) == pytest.approx(1 - 1 / 11)
    assert vqa.anls("ab", ["ax"]) == 0.0  # a distance of a half is too far
    assert vqa.anls("ab", ["ax"], threshold=0.6) == 0.5
    assert vqa.anls("", ["abc"]) == 0.0
    assert vqa.anls("", [""]) == 1.0


@given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_the_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) <= edit_distance(a, c) + edit_distance(c, b)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("105", "100", True), ("94.9", "100", False), ("12%", "0.12", True), ("12%", "12", False), ("-3", "-3.1", True),
        ("0", "0", True), ("0.0", "0", False), ("Blue ", "blue", True), ("1,000", "1000", False), ("nan", "3", False),
    ],
)  # fmt: skip
def test_chartqa(prediction: str, answer: str, right: bool) -> None:
    assert vqa.chartqa_relaxed(prediction, answer) == float(right)
    assert vqa.chartqa_relaxed("110", "100", tolerance=0.1) == 1.0


def test_pope() -> None:
    said = ["Yes, there is.", "No.", "There is not, no", "yes"]
    scores = vqa.pope(said, ["yes", "yes", "no", "no"])
    assert scores == pytest.approx({"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "F1": 0.5, "yes": 0.5})
    assert says_yes("Yes. But no dog.")
    assert not says_yes("I do not know")
    assert vqa.pope(["no"], ["no"]) == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "F1": 0.0, "yes": 0.0}


def test_pairs_count_where_both_are_right() -> None:
    choices = (["open", "closed"], 0), (["open", "closed"], 1)
    assert vqa.mmvp_pairs(["(a)", "closed", "(a) open", "(a)"], [*choices, *choices]) == {
        "pairs": 0.5,
        "accuracy": 0.75,
    }
    assert vqa.pair_accuracy([1, 1, 0, 1]) == 0.5
    assert vqa.by_type([1, 0, 1], ["b", "a", "b"]) == {"a": {"accuracy": 0, "n": 1}, "b": {"accuracy": 1, "n": 2}}


def test_every_scorer_is_in_the_catalog_under_its_id() -> None:
    for name, scorer in vqa.SCORERS.items():
        assert registry("scorers").get(name).load() is scorer
    assert vqa.SCORERS["anls@1"](["a", "b"], [["a"], ["c"]]) == {"accuracy": 0.5}
    assert vqa.SCORERS["scienceqa@1"](["A"], [(["x", "y"], 0)]) == {"accuracy": 1.0}
    assert list(vqa.SCORERS["pope@1"](["no"], ["no"])) == ["accuracy", "precision", "recall", "F1", "yes"]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: vqa.vqa_official(None, ["a"]), "the prediction is NoneType"),
        (lambda: vqa.vqa_official("a", "yes"), "a list of at least one string"),
        (lambda: vqa.vqa_soft("a", []), "a list of at least one string"),
        (lambda: vqa.scienceqa("a", ["x"], 1), "must be an index below 1"),
        (lambda: vqa.scienceqa("a", ["x"], True), "must be an index below 1"),
        (lambda: vqa.pope(["yes"], ["maybe"]), "one is 'maybe'"),
        (lambda: vqa.pope([], []), "at least one"),
        (lambda: vqa.by_type([1.0], []), "1 predictions and 0 answers"),
        (lambda: vqa.pair_accuracy([1.0]), "an even number"),
    ],
)
def test_what_cannot_be_scored_is_told(call, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        call()
