"""Crossing points: the caption length from which on LaDiC is faster than the faster of two autoregressive loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["CLOCKS", "LOOPS", "crossing", "crossings"]

CLOCKS = ("wall", "cpu")
LOOPS = ("generate", "greedy")
FIXED = (24, 64)


def crossing(lengths: np.ndarray, rival: np.ndarray, ours: np.ndarray) -> float:
    """Length at which ``ours`` becomes and stays faster, between measured lengths by linear interpolation.

    Args:
        lengths: float[N], rising.
        rival: float[N] seconds.
        ours: float[N] seconds.

    Returns:
        -inf if it is faster at every length, inf if it is slower at the last one.
    """
    ahead = rival - ours
    behind = np.flatnonzero(ahead <= 0)
    if not len(behind):
        return -np.inf
    last = int(behind[-1])
    if last == len(lengths) - 1:
        return np.inf
    share = -ahead[last] / (ahead[last + 1] - ahead[last])
    return float(lengths[last] + share * (lengths[last + 1] - lengths[last]))


def crossings(
    rows: Sequence[Mapping[str, Any]], *, clock: str = "wall", n_resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Crossing points with bootstrap intervals over the timed rounds, one for each case.

    Args:
        rows: Of ``ladic_latency``: "scale", "dtype", "threads", "batch size", "length" and seconds by contender.
        clock: "wall" or "cpu".
        n_resamples: Replicates; each draws the rounds of every length anew, for all contenders together.
        seed: Of the resampling.

    Returns:
        For each scale, batch size and LaDiC contender, bucketed and at fixed lengths: "crossing", "low", "high" (None
        beyond the measured lengths) and a sentence "text".
    """
    found = []
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["scale"], row["dtype"], row["threads"], row["batch size"]), []).append(row)
    for (scale, dtype, threads, batch_size), group in groups.items():
        by_length = {row["length"]: row for row in sorted(group, key=lambda row: row["length"])}
        medians = _medians({length: row[clock] for length, row in by_length.items()}, n_resamples, seed)
        lengths = np.array(list(by_length), dtype=np.float64)
        rival = np.minimum(*(medians[loop] for loop in LOOPS))  # [1 + R, N]
        for name, times in medians.items():
            if name in LOOPS:
                continue
            layouts = {"bucketed": (lengths, rival, times)}
            for fixed in FIXED:
                if fixed in by_length:
                    fits = lengths <= fixed
                    at = times[:, list(by_length).index(fixed)][:, None]
                    layouts[f"fixed {fixed}"] = (lengths[fits], rival[:, fits], np.repeat(at, fits.sum(), axis=1))
            for layout, (places, theirs, ours) in layouts.items():
                points = np.array([crossing(places, a, b) for a, b in zip(theirs, ours, strict=True)])
                low, high = np.quantile(points[1:], [0.025, 0.975], method="nearest")
                case = f"{scale} {dtype}, {threads} threads, batch {batch_size}, {name}, {layout}"
                found.append(
                    {
                        "case": case,
                        "crossing": _finite(points[0]),
                        "low": _finite(low),
                        "high": _finite(high),
                        "text": _sentence(float(points[0]), float(low), float(high), places),
                    }
                )
    return found


def _medians(by_length: Mapping[int, Mapping[str, list[float]]], n_resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Median seconds float[1 + R, N] by contender: first of all rounds, then of resampled ones."""
    rng = np.random.default_rng(seed)
    shared = set.intersection(*(set(times) for times in by_length.values()))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in next(iter(by_length.values())) if name in shared}
    for times in by_length.values():
        n = len(times[LOOPS[0]])
        drawn = np.concatenate([np.arange(n)[None], rng.integers(n, size=(n_resamples, n))])
        for name, column in columns.items():
            column.append(np.median(np.asarray(times[name])[drawn], axis=1))
    return {name: np.stack(column, axis=1) for name, column in columns.items()}


def _finite(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


def _sentence(point: float, low: float, high: float, lengths: np.ndarray) -> str:
    def say(value: float) -> str:
        if value == -np.inf:
            return f"below {lengths[0]:.0f}"
        return f"beyond {lengths[-1]:.0f}" if value == np.inf else f"{value:.1f}"

    if point == -np.inf:
        said = f"faster than the faster autoregressive loop at all lengths from {lengths[0]:.0f} words on"
    elif point == np.inf:
        said = f"not faster than the faster autoregressive loop up to {lengths[-1]:.0f} words"
    else:
        said = f"faster than the faster autoregressive loop from {point:.1f} words on"
    return f"{said} (95 %: {say(low)} to {say(high)})"
