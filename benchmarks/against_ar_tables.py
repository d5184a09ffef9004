"""From the rows of the comparison of LaDiC with autoregression to its tables and its verdict."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vislex.benchmarks.contenders import CONTENDERS
from vislex.benchmarks.noninferiority import judge_ratio

__all__ = ["EDGES", "by_length", "choose_ways", "table", "verdicts"]

Row = Mapping[str, Any]

EDGES = (0, 8, 12, 16, 24, 32, 64)  # words of a reference
QUALITY = (
    "CIDEr-D",
    "BLEU-4",
    "ROUGE-L",
    "scene-F1",
    "hallucination",
    "distinct-1",
    "distinct-2",
    "unique",
    "novelty",
)


def choose_ways(rows: Sequence[Row]) -> dict[str, str]:
    """For each arm of one style the way of writing with the highest CIDEr-D on val, mean over seeds."""
    means: dict[str, dict[str, float]] = {}
    for (arm, way), group in _grouped(_captions(rows, "val")):
        means.setdefault(arm, {})[way] = float(np.mean([row["scores"]["CIDEr-D"] for row in group]))
    return {arm: max(own, key=own.__getitem__) for arm, own in means.items()}


def table(rows: Sequence[Row], lrs: Sequence[float] = ()) -> list[dict[str, Any]]:
    """One entry for each arm and way of one style, the chosen ways marked, by falling CIDEr-D.

    Args:
        rows: Of ``StyleRuns.run``.
        lrs: Learning rates that were tried: a best one at their edge is marked.
    """
    chosen = choose_ways(rows)
    trainings = {row["key"]: row for row in rows if row["kind"] == "training"}
    costs = {(row["arm"], row["way"]): row for row in rows if row["kind"] == "cost"}
    entries = []
    for (arm, way), group in _grouped(_captions(rows, "test_composition")):
        own = [trainings[row["training"]] for row in group]
        scores = {name: _mean([row["scores"].get(name) for row in group]) for name in QUALITY}
        entry: dict[str, Any] = {"style": group[0]["style"], "arm": arm, "way": way, "chosen": chosen[arm] == way}
        entry |= {"seeds": len(group), **scores, "evaluations": _mean(row["evaluations"] for row in group)}
        entry |= _cost(costs.get((arm, way)))
        entry |= {"lr": own[0]["lr"], "steps": own[0]["steps"], "seconds of training": _mean(r["seconds"] for r in own)}
        entry["lr at the edge"] = len(lrs) > 1 and own[0]["lr"] in (min(lrs), max(lrs))
        counts = own[0]["parameters"]
        entry |= {"trained parameters": counts["decoder_budget"], "frozen in the decoder": counts["decoder_frozen"]}
        entries.append(entry | {"frozen in the encoder": counts.get("encoder")})
    return sorted(entries, key=lambda entry: -float(entry["CIDEr-D"]))


def verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """LaDiC against the better autoregressive arm: of all, of those with equal samples, of those with equal time.

    On both sides arm and way are chosen by CIDEr-D on val; the quotient is of test_composition. The first entry is the
    experiment's: the best LaDiC arm against the best of all.
    """
    ways = choose_ways(rows)
    val = {
        arm: _mean(row["scores"]["CIDEr-D"] for row in _captions(rows, "val") if (row["arm"], row["way"]) == (arm, way))
        for arm, way in ways.items()
    }
    ceiling = next((row["scores"].get("CIDEr-D") for row in rows if row["kind"] == "bound"), None)
    ranked = sorted(val, key=lambda arm: -(val[arm] or 0.0))
    ours = [arm for arm in ranked if CONTENDERS[arm].is_ladic]
    rivals = [arm for arm in ranked if CONTENDERS[arm].is_autoregressive]
    groups = {"any": rivals}
    groups |= {f"equal {equal}": [a for a in rivals if CONTENDERS[a].equal == equal] for equal in ("samples", "time")}
    found = []
    for arm, (against, group) in itertools.product(ours, groups.items()):
        if not group:
            continue
        rival = group[0]
        a, b = (_by_seed(rows, name, ways[name]) for name in (arm, rival))
        if seeds := sorted(set(a) & set(b)):
            judged = judge_ratio(
                np.array([a[seed] for seed in seeds]),
                np.array([b[seed] for seed in seeds]),
                ceiling=ceiling,
                curve=_curve(rows, arm),
            )
            entry = {"style": rows[0]["style"], "arm": arm, "way": ways[arm], "against": against, "rival": rival}
            means = [float(np.mean([side[seed] for seed in seeds])) for side in (a, b)]
            found.append({**entry, "rival way": ways[rival], "CIDEr-D": means, "ceiling": ceiling, **judged})
    return found


def by_length(rows: Sequence[Row], lengths: np.ndarray) -> list[dict[str, Any]]:
    """Quality and latency of each arm's chosen way by the length of the references.

    Args:
        rows: Of one style.
        lengths: float[N] mean words of the references of test_composition.

    Returns:
        One entry for each arm and bin that is not empty: "from" and "to" words, "n" images, mean "CIDEr-D" and
        "scene-F1" over images and seeds, median "ms" of the captions timed there (None if none was).
    """
    ways = choose_ways(rows)
    entries = []
    for arm, way in ways.items():
        own = [row for row in _captions(rows, "test_composition") if (row["arm"], row["way"]) == (arm, way)]
        timed = [
            caption
            for row in rows
            if row["kind"] == "cost" and (row["arm"], row["way"]) == (arm, way)
            for caption in row["timed"]
        ]
        for low, high in itertools.pairwise(EDGES):
            inside = (lengths > low) & (lengths <= high)
            if not inside.any():
                continue
            times = [caption["milliseconds"] for caption in timed if low < caption["reference words"] <= high]
            entry: dict[str, Any] = {"style": own[0]["style"], "arm": arm, "way": way, "from": low, "to": high}
            entry |= {"n": int(inside.sum()), "words": float(lengths[inside].mean())}
            for name in ("CIDEr-D", "scene-F1"):
                entry[name] = float(np.mean([np.asarray(row["per_image"][name])[inside].mean() for row in own]))
            entries.append({**entry, "ms": float(np.median(times)) if times else None})
    return entries


def _captions(rows: Iterable[Row], split: str) -> list[Row]:
    return [row for row in rows if row["kind"] == "captions" and row["split"] == split]


def _grouped(rows: Iterable[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["way"]), []).append(row)
    return list(groups.items())


def _by_seed(rows: Sequence[Row], arm: str, way: str) -> dict[int, list[float]]:
    own = (row for row in _captions(rows, "test_composition") if (row["arm"], row["way"]) == (arm, way))
    return {row["seed"]: row["per_image"]["CIDEr-D"] for row in own}


def _curve(rows: Sequence[Row], arm: str) -> list[float]:
    """CIDEr-D on val of the trainings whose captions are scored, mean over seeds."""
    used = {row["training"] for row in _captions(rows, "test_composition") if row["arm"] == arm}
    curves = [row["curve"] for row in rows if row["kind"] == "training" and row["key"] in used]
    return [float(np.mean(points)) for points in zip(*curves, strict=False)]


def _cost(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {"ms a caption": None, "CPU ms a caption": None}
    rates = {f"captions a second at {size}": rate for size, rate in row["captions a second"].items()}
    clocks = {"ms a caption": "milliseconds", "CPU ms a caption": "cpu_milliseconds"}
    middles = {name: float(np.median([caption[clock] for caption in row["timed"]])) for name, clock in clocks.items()}
    return {**middles, **rates}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
