"""From runs to tables: rows averaged over seeds, and paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vislex.benchmarks.results import DataRecord, ModelInfo, Origin, Results, Run
from vislex.errors import DataError, did_you_mean
from vislex.metrics.statistics import PairedInterval, paired_bootstrap, verdict

__all__ = [
    "UNTRAINED",
    "Pair",
    "Row",
    "all_pairs",
    "compare_rows",
    "control_pairs",
    "floor_pairs",
    "length_bins",
    "summarise",
]

UNTRAINED = "@untrained"
LEADING = ("CIDEr-D", "text-to-image R@1", "accuracy", "mIoU")
FLOOR_METRICS = {"vqa": "accuracy", "segmentation": "IoU"}
PRINTED = ("CIDEr-D", "BLEU-4", "ROUGE-L", "scene-F1", "hallucination")


@dataclass(frozen=True)
class Row:
    """One row of a table: the runs of one model, which differ in their seed.

    Attributes:
        name: Name of the row.
        runs: Its runs, by seed.
        scores: Mean over seeds of every score, on the official scales.
        spread: Standard deviation over seeds of the same; empty with one seed.
    """

    name: str
    runs: list[Run]
    scores: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> ModelInfo:
        return self.runs[0].model

    @property
    def origin(self) -> Origin:
        return self.model.origin

    @property
    def is_model(self) -> bool:
        return self.origin not in ("floor", "ceiling")

    @property
    def seeds(self) -> list[int | None]:
        return [run.model.seed for run in self.runs]

    def timing(self, name: str) -> float | None:
        """Mean over seeds of a field of ``Timing``; None where it was not measured."""
        values = [value for run in self.runs if (value := getattr(run.timing, name)) is not None]
        return float(np.mean(values)) if values else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "row": self.name,
            "origin": self.origin,
            "seeds": len(self.runs),
            **self.scores,
            **{f"{name} sd": value for name, value in self.spread.items() if name in PRINTED},
            "ms a caption": self.timing("latency_ms"),
            "captions a second": self.timing("throughput"),
            "evaluations": self.timing("evaluations"),
            **{f"parameters {name}": count for name, count in self.model.parameters.items()},
        }


@dataclass(frozen=True)
class Pair:
    """A paired difference ``a - b`` of one score on the same images and the same downstream seeds.

    Attributes:
        a: Row that is claimed to be better.
        b: Row that it is compared with.
        metric: Name of the score.
        mean_a: Its mean for ``a``.
        mean_b: Its mean for ``b``.
        interval: Difference with its bootstrap interval, n, number of seeds and minimal detectable effect.
        verdict: "holds", "does not hold" or "inconclusive" against a margin written before; None without one.
    """

    a: str
    b: str
    metric: str
    mean_a: float
    mean_b: float
    interval: PairedInterval
    margin: float | None = None
    verdict: str | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.interval.low > 0 or self.interval.high < 0

    @property
    def covers(self) -> str:
        """Which variance the interval covers, for people."""
        seeds = self.interval.n_seeds
        return f"images and {seeds} training seeds" if seeds > 1 else "images (one training seed)"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "a": self.a,
            "b": self.b,
            "metric": self.metric,
            "mean a": self.mean_a,
            "mean b": self.mean_b,
            "difference": self.interval.difference,
            "low": self.interval.low,
            "high": self.interval.high,
            "n": self.interval.n,
            "seeds": self.interval.n_seeds,
            "minimal detectable effect": self.interval.minimal_detectable_effect,
            "margin": self.margin,
            "verdict": self.verdict,
        }


def summarise(results: Results, data: DataRecord | str | None, task: str = "captioning") -> list[Row]:
    """Rows of one data set: models by falling CIDEr-D (R@1 for retrieval), then the floors, the ceiling first.

    Of several runs of one row and seed, such as a shipped captioner and then the same trained live, the last counts.
    """
    key = data.key if isinstance(data, DataRecord) else data
    grouped: dict[str, dict[int | None, Run]] = {}
    for run in results.runs:
        if run.task == task and run.data == key:
            grouped.setdefault(run.model.row, {})[run.model.seed] = run
    rows = [_row(name, sorted(runs.values(), key=lambda run: run.model.seed or 0)) for name, runs in grouped.items()]
    order = {"ceiling": 0, "floor": 2}
    return sorted(rows, key=lambda row: (order.get(row.origin, 1), -_leading_score(row)))


def compare_rows(
    results: Results,
    data: DataRecord,
    a: str,
    b: str,
    *,
    metric: str = "CIDEr-D",
    margin: float | None = None,
    n_resamples: int = 1000,
    task: str = "captioning",
) -> Pair:
    """Paired bootstrap of the difference ``a - b`` between two rows.

    Seeds that both rows have are paired and resampled with the images; rows without a seed in common are averaged
    over their seeds first, and the interval then covers the images only.

    Raises:
        DataError: If a row or its per-image scores are missing.
    """
    rows = {row.name: row for row in summarise(results, data, task)}
    first, second = _per_image(rows, a, metric), _per_image(rows, b, metric)
    common = sorted(set(first) & set(second), key=lambda seed: -1 if seed is None else seed)
    if common:
        left = np.stack([first[seed] for seed in common])  # [S, N]
        right = np.stack([second[seed] for seed in common])
    else:
        left = np.mean(list(first.values()), axis=0, keepdims=True)  # [1, N]
        right = np.mean(list(second.values()), axis=0, keepdims=True)
    interval = paired_bootstrap(left, right, n_resamples=n_resamples, seed=0)
    judged = None if margin is None else verdict(interval, margin)
    return Pair(a, b, metric, float(left.mean()), float(right.mean()), interval, margin, judged)


def control_pairs(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Pairs (pretrained, the same architecture untrained) with the same decoder, for every row that has its control."""
    rows = [row for row in rows if row.model.encoder]
    by_parts = {(row.model.encoder, row.model.decoder, row.origin): row.name for row in rows}
    pairs = []
    for row in rows:
        control = by_parts.get((f"{row.model.encoder}{UNTRAINED}", row.model.decoder, row.origin))
        if control is not None:
            pairs.append((row.name, control))
    return pairs


def all_pairs(results: Results, data: DataRecord, metric: str = "CIDEr-D", *, task: str = "captioning") -> list[Pair]:
    """The paired differences that a result file asks for: its config's pairs, else every encoder against its control.

    The config's margin belongs to its own metric; other metrics get no verdict. Rows that were not scored image by
    image are left out.
    """
    rows = {row.name: row for row in summarise(results, data, task) if all(metric in run.per_image for run in row.runs)}
    config = results.config or {}
    wanted = [(a, b) for a, b in config.get("pairs") or control_pairs(rows.values())]
    margin = config.get("margin") if config.get("metric", "CIDEr-D") == metric else None
    return [
        compare_rows(results, data, a, b, metric=metric, margin=margin, task=task)
        for a, b in wanted
        if a in rows and b in rows
    ]


def floor_pairs(results: Results, data: DataRecord, task: str) -> list[Pair]:
    """Every model against what it must beat: in "vqa" every floor, in "segmentation" its own boxes, filled."""
    metric = FLOOR_METRICS[task]
    rows = summarise(results, data, task)
    floors = [row.name for row in rows if row.origin == "floor"]
    return [
        compare_rows(results, data, row.name, floor, metric=metric, task=task)
        for row in rows
        for floor in floors
        if row.is_model and (task == "vqa" or floor.startswith(f"{row.name}:"))
    ]


def _row(name: str, runs: list[Run]) -> Row:
    names = [score for score in runs[0].scores if all(score in run.scores for run in runs)]
    values = {score: np.array([run.scores[score] for run in runs]) for score in names}
    scores = {score: float(array.mean()) for score, array in values.items()}
    spread = {score: float(array.std(ddof=1)) for score, array in values.items()} if len(runs) > 1 else {}
    return Row(name, runs, scores, spread)


def _leading_score(row: Row) -> float:
    value = next((row.scores[name] for name in LEADING if name in row.scores), 0.0)
    return value if math.isfinite(value) else 0.0


def _per_image(rows: dict[str, Row], name: str, metric: str) -> dict[int | None, np.ndarray]:
    if name not in rows:
        raise DataError(f"no row '{name}' in these results{did_you_mean(name, rows)} Rows are {', '.join(rows)}")
    scores: dict[int | None, np.ndarray] = {}
    for run in rows[name].runs:
        if metric not in run.per_image:
            raise DataError(
                f"row '{name}' has no per-image {metric}; it has {', '.join(run.per_image) or 'none'}; "
                "intervals need scores image by image"
            )
        scores[run.model.seed] = np.asarray(run.per_image[metric], dtype=np.float64)
    return scores


def length_bins(lengths: Sequence[float], n_bins: int = 5) -> list[tuple[float, float, np.ndarray]]:
    """Splits images into bins of nearly equal number by the length of their references.

    Args:
        lengths: Mean number of words of each image's references.
        n_bins: Number of bins; fewer where lengths repeat.

    Returns:
        (shortest, longest, bool[N] membership) for every bin that is not empty.
    """
    values = np.asarray(lengths, dtype=np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    if len(edges) < 2:
        return [(float(edges[0]), float(edges[0]), np.ones(len(values), dtype=bool))]
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    bins = [(which == index) for index in range(len(edges) - 1)]
    return [(float(values[mask].min()), float(values[mask].max()), mask) for mask in bins if mask.any()]
