"""Rating pages are blind, and their answers are counted with an exact interval."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vislex.benchmarks.judge import COLUMNS, read_ratings, write_page
from vislex.benchmarks.results import Results
from vislex.errors import DataError

ROWS = ("enc + prefix", "enc@untrained + prefix")


def _answers(path: Path, key: dict, favour: str, rater: str = "r1") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for item, sides in key["items"].items():
            side = "A" if sides["A"] == favour else "B"
            writer.writerow([key["page"], item, rater, side, "equal"])
    return path


def test_the_page_names_no_model_and_mixes_the_sides(results: Results, tmp_path: Path) -> None:
    page, key_path = write_page(results, tmp_path / "judge.html", ROWS, seed=1)
    text, key = page.read_text(), json.loads(key_path.read_text())
    assert "prefix" not in text
    assert "untrained" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert (key["a"], key["b"]) == ROWS
    assert {sides["A"] for sides in key["items"].values()} == {"a", "b"}
    assert key["shown"] == len(key["items"]) == 4


def test_answers_are_counted_on_the_right_side(results: Results, tmp_path: Path) -> None:
    _, key_path = write_page(results, tmp_path / "judge.html", ROWS, seed=1)
    key = json.loads(key_path.read_text())
    correctness, fluency = read_ratings([_answers(tmp_path / "a.csv", key, "a")], key_path)
    assert (correctness.wins, correctness.losses, correctness.rate) == (4, 0, 1.0)
    assert correctness.low == pytest.approx(0.025 ** (1 / 4), abs=1e-6)
    assert correctness.high == 1.0
    assert (fluency.wins, fluency.losses, fluency.ties) == (0, 0, 4)
    assert (fluency.low, fluency.high) == (0.0, 1.0)


def test_raters_that_disagree_make_a_tie(results: Results, tmp_path: Path) -> None:
    _, key_path = write_page(results, tmp_path / "judge.html", ROWS)
    key = json.loads(key_path.read_text())
    files = [_answers(tmp_path / "1.csv", key, "a", "r1"), _answers(tmp_path / "2.csv", key, "b", "r2")]
    correctness, _ = read_ratings(files, key_path)
    assert (correctness.ties, correctness.raters) == (4, 2)


def test_answers_of_another_page_are_refused(results: Results, tmp_path: Path) -> None:
    _, key_path = write_page(results, tmp_path / "judge.html", ROWS)
    key = json.loads(key_path.read_text())
    answers = _answers(tmp_path / "a.csv", {**key, "page": "other"}, "a")
    with pytest.raises(DataError, match="belongs to another page"):
        read_ratings([answers], key_path)
    (tmp_path / "b.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="has no column page"):
        read_ratings([tmp_path / "b.csv"], key_path)
    with pytest.raises(DataError, match="not the key"):
        read_ratings([answers], answers)


def test_unknown_rows_are_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean"):
        write_page(results, tmp_path / "judge.html", ("enc + prefi", ROWS[1]))
