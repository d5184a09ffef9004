"""Blinded A/B pages for human raters, and the win rate that their answers give.

The page shows an image and two captions on sides drawn by a seed; it holds no name of a model. The key that tells which
side was whose lies in a file of its own, to be opened after rating. Captions that are equal are not shown.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from vislex.benchmarks.results import DataRecord, Results, content_key
from vislex.benchmarks.summary import Row, summarise
from vislex.errors import DataError, did_you_mean
from vislex.metrics.statistics import exact_binomial_interval

__all__ = ["QUESTIONS", "WinRate", "read_ratings", "write_page"]

QUESTIONS = {
    "correctness": "Which caption describes the picture more correctly?",
    "fluency": "Which caption is the better English?",
}
CHOICES = ("A", "B", "equal")
COLUMNS = ("page", "item", "rater", *QUESTIONS)


@dataclass(frozen=True)
class WinRate:
    """How often raters preferred one model.

    Attributes:
        question: "correctness" or "fluency".
        a: Name of the row whose wins are counted.
        b: Name of the other row.
        wins: Items on which most raters preferred ``a``.
        losses: Items on which most preferred ``b``.
        ties: Items without a majority; they are left out of the rate.
        rate: ``wins / (wins + losses)``; 0.5 if there is neither.
        low: Lower bound of the exact (Clopper-Pearson) 95 % interval.
        high: Upper bound.
        raters: Number of raters.
    """

    question: str
    a: str
    b: str
    wins: int
    losses: int
    ties: int
    rate: float
    low: float
    high: float
    raters: int


def write_page(
    results: Results, path: str | Path, rows: tuple[str, str] | None = None, *, n: int = 50, seed: int = 0
) -> tuple[Path, Path]:
    """Writes the page, and its key beside it as ``<name>.key.json``.

    Args:
        results: Results of a captioning benchmark that stored images.
        path: HTML file to write.
        rows: The two rows to compare; by default the best two models.
        n: Most items.
        seed: Draws the order and the sides.

    Returns:
        Paths of the page and of its key.

    Raises:
        DataError: If a row is unknown or has no stored image with two different captions.
    """
    record, first, second = _choose(results, rows)
    places = [index for index, identity in enumerate(record.ids) if identity in record.images]
    captions = [row.runs[0].captions for row in (first, second)]
    different = [place for place in places if captions[0][place].strip() != captions[1][place].strip()]
    if not different:
        raise DataError(
            f"'{first.name}' and '{second.name}' give the same caption on all {len(places)} stored images; "
            "store more with --images, or compare other rows"
        )
    rng = random.Random(seed)
    chosen = rng.sample(different, min(n, len(different)))
    page = content_key({"rows": [first.name, second.name], "data": record.key, "seed": seed, "items": chosen})
    items, sides = [], {}
    for number, place in enumerate(chosen):
        swap = rng.random() < 0.5
        shown = (captions[1][place], captions[0][place]) if swap else (captions[0][place], captions[1][place])
        items.append({"item": number, "image": record.images[record.ids[place]], "A": shown[0], "B": shown[1]})
        sides[str(number)] = {"A": "b" if swap else "a", "id": record.ids[place]}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_html(page, items), encoding="utf-8")
    key = {
        "page": page,
        "a": first.name,
        "b": second.name,
        "seed": seed,
        "shown": len(chosen),
        "identical": len(places) - len(different),
        "items": sides,
    }
    key_path = path.with_suffix(".key.json")
    key_path.write_text(json.dumps(key, indent=1), encoding="utf-8")
    return path, key_path


def read_ratings(files: Sequence[str | Path], key: str | Path) -> list[WinRate]:
    """Counts the raters' answers: a majority an item, an exact binomial interval over items.

    Args:
        files: CSV files that the page gave, one a rater or several in one.
        key: The page's key file.

    Returns:
        One win rate a question.

    Raises:
        DataError: If a file is missing, has other columns, or belongs to another page.
    """
    unblind = _read_key(Path(key))
    votes: dict[str, dict[str, Counter[str]]] = {question: defaultdict(Counter) for question in QUESTIONS}
    raters = set()
    for file in map(Path, files):
        for line, answer in enumerate(_read_csv(file), start=2):
            side = unblind["items"].get(answer["item"])
            if answer["page"] != unblind["page"] or side is None:
                raise DataError(f"{file} line {line}: the answer belongs to another page than {key}")
            raters.add(answer["rater"])
            for question in QUESTIONS:
                choice = answer[question]
                if choice == "":
                    continue
                if choice not in CHOICES:
                    raise DataError(f"{file} line {line}: {question} is {choice!r}; allowed are {', '.join(CHOICES)}")
                vote = "equal" if choice == "equal" else "a" if (choice == "A") == (side["A"] == "a") else "b"
                votes[question][answer["item"]][vote] += 1
    return [_win_rate(question, unblind, counts, len(raters)) for question, counts in votes.items()]


def _choose(results: Results, names: tuple[str, str] | None) -> tuple[DataRecord, Row, Row]:
    for record in results.data.values():
        rows = {row.name: row for row in summarise(results, record) if row.is_model and row.runs[0].captions}
        if names is None and len(rows) >= 2:
            first, second = list(rows.values())[:2]
            return record, first, second
        if names is not None and all(name in rows for name in names):
            return record, rows[names[0]], rows[names[1]]
    known = sorted({run.model.row for run in results.runs if run.captions})
    wanted = " and ".join(repr(name) for name in names) if names else "two models"
    near = (
        did_you_mean(next(name for name in names if name not in known), known)
        if names and set(names) - set(known)
        else "."
    )
    raise DataError(
        f"no captions of {wanted} on the same data{near} Rows with captions are {', '.join(known) or 'none'}"
    )


def _win_rate(question: str, key: dict[str, Any], counts: dict[str, Counter[str]], raters: int) -> WinRate:
    wins = sum(votes["a"] > votes["b"] for votes in counts.values())
    losses = sum(votes["b"] > votes["a"] for votes in counts.values())
    decided = wins + losses
    low, high = exact_binomial_interval(wins, decided, 0.95) if decided else (0.0, 1.0)
    rate = wins / decided if decided else 0.5
    return WinRate(question, key["a"], key["b"], wins, losses, len(counts) - decided, rate, low, high, raters)


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        key["page"], key["a"], key["b"], key["items"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not the key of a rating page ({error}); 'vislex report --judge' writes it"
        ) from error
    return dict(key)


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise DataError(f"{path} has no column {', '.join(missing)}; use the file that the page downloads")
            return [{name: (row[name] or "").strip() for name in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _html(page: str, items: list[dict[str, Any]]) -> str:
    files = resources.files("vislex.benchmarks")
    data = json.dumps({"page": page, "questions": QUESTIONS, "choices": CHOICES, "columns": COLUMNS, "items": items})
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Two captions, page {escape(page)}</title>\n<style>\n"
        f"{files.joinpath('report.css').read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        "<h1>Which caption is better?</h1>\n"
        '<p class="soft">Judge the two captions of each picture. The sides are mixed: A is not always the same system. '
        "Answers stay in this browser until you download them.</p>\n"
        '<div id="judge"></div>\n</main>\n'
        f"<script>\nconst PAGE = {data.replace('</', '<' + chr(92) + '/')};\n"
        f"{files.joinpath('judge.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )
