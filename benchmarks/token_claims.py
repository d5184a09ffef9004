"""What is claimed of ViLex's tokens, and the rules of the verdicts, fixed before the runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vislex.benchmarks.verdicts import all_of
from vislex.benchmarks.vilex_experiment import Base, interval_values, judge, tier_mean
from vislex.metrics.factors import FACTORS
from vislex.metrics.statistics import paired_bootstrap, paired_ratio

__all__ = [
    "EMPTY", "PLATEAU", "TAIL_DROP", "WORSE_AT_ALL", "WORSE_BELOW", "budgets_by_objects", "claims", "conclude",
    "factor_budgets", "needed",
]  # fmt: skip

TAIL_DROP, EMPTY = "TailDrop", "empty prompt"
PLATEAU = 0.9  # share of the reduction with all tokens that counts as reached
WORSE_BELOW = 1.05  # TailDrop's loss over that of a model trained with exactly k tokens, for k below all
WORSE_AT_ALL = 1.02  # the same with all tokens
RESAMPLES = 1000
Row = Mapping[str, Any]


def claims(rows: Sequence[Row], objects: Sequence[int], base: Base) -> list[dict[str, Any]]:
    """Every comparison with its interval, margin and verdict.

    Args:
        rows: Of ``vilex_tokens``: "arm", "tokens", "discrete", "per_image".
        objects: Number of objects of each image.
        base: The parts; on parts that cannot be tested every verdict says so.

    Returns:
        "claim", "about", the interval ("difference" or "ratio", "low", "high"), "margin", "verdict".
    """
    found = [*_falls(rows), *_grows(rows, objects), *_trained_for(rows), *_one_token(rows)]
    return [{**entry, "verdict": base.judged(entry["verdict"])} for entry in found]


def conclude(found: Sequence[Row]) -> dict[str, str]:
    """One verdict a claim: all its comparisons must hold, one that does not refutes it."""
    names = dict.fromkeys(entry["claim"] for entry in found)
    return {name: all_of(entry["verdict"] for entry in found if entry["claim"] == name) for name in names}


def needed(budgets: Sequence[int], gains: np.ndarray, share: float = PLATEAU) -> np.ndarray:
    """Tokens that reach a share of the gain with all, interpolated over log2 of the budgets.

    Args:
        budgets: K ascending numbers of tokens.
        gains: float[R, K] above no token at all.
        share: Of the last gain.

    Returns:
        float[R]; NaN where all tokens gain nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(gains[:, -1:] > 0, gains / gains[:, -1:], np.nan)
    found = np.full(len(gains), np.nan)
    for row, values in enumerate(shares):
        if np.isnan(values).any():
            continue
        first = int(np.argmax(values >= share))
        place = np.log2(budgets[first])
        if first > 0:
            before, after = values[first - 1], values[first]
            below = np.log2(budgets[first - 1])
            place = below + (place - below) * (share - before) / (after - before)
        found[row] = 2.0**place
    return found


def budgets_by_objects(rows: Sequence[Row], objects: Sequence[int]) -> list[dict[str, Any]]:
    """For each number of objects and each budget, the share of the reduction of the loss that TailDrop reaches."""
    budgets, losses, empty = _losses(rows)
    if not budgets:
        return []
    groups = np.asarray(objects)[: len(empty)]
    made = []
    for count in sorted(set(groups.tolist())):
        gains = np.array([(empty - values)[groups == count].mean() for values in losses])
        tokens = needed(budgets, gains[None])[0]
        for k, gain in zip(budgets, gains, strict=True):
            share = float(gain / gains[-1]) if gains[-1] > 0 else 0.0
            entry = {"objects": int(count), "tokens": k, "share": share, "n": int((groups == count).sum())}
            made.append({**entry, "needed": None if np.isnan(tokens) else float(tokens)})
    return made


def factor_budgets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Which factors come first: of each the accuracy by budget, and the tokens that reach the plateau."""
    told = _by_budget(rows, TAIL_DROP)
    empty = next((row for row in rows if row["arm"] == EMPTY), None)
    if not told or empty is None:
        return []
    made = []
    for factor, tier in FACTORS.items():
        by_budget = {k: float(np.mean(row["per_image"][factor])) for k, row in told.items()}
        without = float(np.mean(empty["per_image"][factor]))
        tokens = needed(list(told), np.array([[value - without for value in by_budget.values()]]))[0]
        entry: dict[str, Any] = {"factor": factor, "tier": tier, EMPTY: without}
        entry |= {f"{k} tokens": value for k, value in by_budget.items()}
        made.append({**entry, "needed": None if np.isnan(tokens) else float(tokens)})
    return sorted(made, key=lambda entry: (entry["needed"] is None, entry["needed"] or 0.0))


def _falls(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    told = _by_budget(rows, TAIL_DROP)
    for (fewer, first), (more, second) in itertools.pairwise(told.items()):
        interval = paired_bootstrap(*(np.asarray(row["per_image"]["loss"]) for row in (first, second)))
        yield {"claim": "the loss falls with tokens", "about": f"{fewer} - {more} tokens", **interval_values(interval)}


def _grows(rows: Sequence[Row], objects: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The slope of log2 of the needed tokens over the number of objects, images drawn again within each number."""
    budgets, losses, empty = _losses(rows)
    if not budgets:
        return
    groups = np.asarray(objects)[: len(empty)]
    counts = [count for count in sorted(set(groups.tolist())) if (groups == count).sum() > 1]
    entry: dict[str, Any] = {"claim": "more objects need more tokens", "about": "log2 tokens an object", "margin": 0.0}
    if len(counts) < 2:
        yield {**entry, "verdict": "not tested"}
        return
    draws = np.random.default_rng(0)
    tokens = []
    for count in counts:
        own = np.stack([(empty - values)[groups == count] for values in losses])  # [K, N]
        n = own.shape[1]
        weights = np.concatenate(
            [np.full((1, n), 1 / n), draws.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n]
        )  # the first row as observed
        tokens.append(np.log2(needed(budgets, weights @ own.T)))
    centred = np.array(counts, dtype=np.float64) - np.mean(counts)
    slopes = centred @ np.stack(tokens) / (centred @ centred)  # [1 + R]
    if np.isnan(slopes).any():
        yield {
            **entry,
            "verdict": "inconclusive",
            "reason": "all tokens do not lower the loss of some number of objects",
        }
        return
    low, high = (float(value) for value in np.quantile(slopes[1:], [0.025, 0.975]))
    values = {"difference": float(slopes[0]), "low": low, "high": high, "n": len(groups)}
    yield {**entry, **values, "verdict": judge(low, high)}


def _trained_for(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    told = _by_budget(rows, TAIL_DROP)
    for row in rows:
        k = row["tokens"]
        if row["arm"] != f"trained with {k}" or k not in told:
            continue
        limit = WORSE_AT_ALL if k == max(told) else WORSE_BELOW
        ratio = paired_ratio(*(np.asarray(side["per_image"]["loss"]) for side in (told[k], row)))
        found = {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "n": ratio.n, "margin": limit}
        verdict = "holds" if ratio.high <= limit else "does not hold" if ratio.low > limit else "inconclusive"
        about = f"loss of TailDrop at {k} / trained with {k}"
        yield {"claim": "TailDrop costs little", "about": about, **found, "verdict": verdict}


def _one_token(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Better than every discrete rung is better than the best one."""
    one = _by_budget(rows, TAIL_DROP).get(1)
    if one is None:
        return
    for row in rows:
        if not row["discrete"]:
            continue
        shared = {"claim": "one continuous token beats every text"}
        loss = paired_bootstrap(*(np.asarray(side["per_image"]["loss"]) for side in (row, one)))
        name = row["arm"] if row["tokens"] is None else f"{row['arm']}, {row['tokens']} words"
        yield {**shared, "about": f"loss of {name} - of one token", **interval_values(loss)}
        never = paired_bootstrap(*(tier_mean(side["per_image"]) for side in (one, row)))
        yield {**shared, "about": f"never named: one token - {name}", **interval_values(never)}


def _by_budget(rows: Sequence[Row], arm: str) -> dict[int, Row]:
    own = [row for row in rows if row["arm"] == arm]
    return {row["tokens"]: row for row in sorted(own, key=lambda row: row["tokens"])}


def _losses(rows: Sequence[Row]) -> tuple[list[int], list[np.ndarray], np.ndarray]:
    """Budgets of TailDrop, the losses of the images at each, and those under the empty prompt."""
    told = _by_budget(rows, TAIL_DROP)
    empty = next((row for row in rows if row["arm"] == EMPTY), None)
    if not told or empty is None:
        return [], [], np.zeros(0)
    losses = [np.asarray(row["per_image"]["loss"]) for row in told.values()]
    return list(told), losses, np.asarray(empty["per_image"]["loss"])
