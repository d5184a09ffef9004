"""What probes said, as tables: a line an encoder and probe, the floors, and paired differences from the first."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vislex.benchmarks.probe import ProbeData, tier_factors, tier_hits
from vislex.benchmarks.probe_targets import TIERS
from vislex.benchmarks.probes import PROBES
from vislex.metrics.statistics import paired_bootstrap

__all__ = ["differences", "floors", "wide"]


def floors(data: ProbeData) -> list[dict[str, Any]]:
    """Accuracies without any image: the largest class of training, and chance."""
    made = []
    for name in ("floor: largest class", "floor: chance"):
        scores = {}
        for factor, count in data.classes.items():
            train, test = (data.labels[split][factor] for split in ("train", "test"))
            largest = np.bincount(train[train >= 0], minlength=count).argmax()
            scores[factor] = 1 / count if name.endswith("chance") else float((test[test >= 0] == largest).mean())
        for tier in dict.fromkeys(TIERS.values()):
            scores[f"{tier} named"] = float(np.mean([scores[factor] for factor in tier_factors(tier)]))
        made.append({"encoder": name, "probe": "", "scores": scores})
    return made


def differences(rows: Sequence[Mapping[str, Any]], data: ProbeData) -> list[dict[str, Any]]:
    """Paired intervals of every encoder against the first, by probe, factor and tier.

    Returns:
        One row a probe, encoder and factor: "accuracy", and from the second encoder on "difference", "low", "high",
        "minimal detectable effect", "n", "seeds".
    """
    first = rows[0]["encoder"]
    made = []
    for (probe, encoder), group in _grouped(rows).items():
        hits = _hits(group, data)
        reference = _hits(_grouped(rows)[probe, first], data)
        for factor, values in hits.items():
            row: dict[str, Any] = {"probe": probe, "encoder": encoder, "factor": factor, "tier": TIERS.get(factor, "")}
            row |= {"accuracy": float(values.mean()), "n": values.shape[1], "seeds": len(values)}
            if encoder != first:
                interval = paired_bootstrap(values, reference[factor])
                row |= {"against": first, "difference": interval.difference, "low": interval.low}
                row |= {
                    "high": interval.high,
                    "minimal detectable effect": interval.minimal_detectable_effect,
                }
            made.append(row)
    return made


def wide(rows: Sequence[Mapping[str, Any]], data: ProbeData) -> list[dict[str, Any]]:
    """One line an encoder and probe with a column a factor, in percent, the floors below."""
    lines = []
    for (probe, encoder), group in _grouped(rows).items():
        scores = {name: float(np.mean([row["scores"][name] for row in group])) for name in group[0]["scores"]}
        lines.append({"probe": probe, "encoder": encoder, **_percent(scores)})
    return lines + [{"probe": "", "encoder": row["encoder"], **_percent(row["scores"])} for row in floors(data)]


def _percent(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(100 * value, 1) for name, value in scores.items()}


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Rows by probe and encoder, the seeds together, in the order of the probes."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: PROBES.index(row["probe"])):
        found.setdefault((row["probe"], row["encoder"]), []).append(row)
    return found


def _hits(group: Sequence[Mapping[str, Any]], data: ProbeData) -> dict[str, np.ndarray]:
    """float[S, N] of every factor and tier."""
    by_seed = [{name: _unpack(row["hits"][name], row["n"][name]) for name in TIERS} for row in group]
    stacked = {name: np.stack([hits[name] for hits in by_seed]) for name in TIERS}
    for tier in dict.fromkeys(TIERS.values()):
        stacked[f"{tier} named"] = np.stack([tier_hits(hits, data.labels, tier) for hits in by_seed])
    return stacked


def _unpack(text: str, n: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=n)
    return bits.astype(np.float64)
