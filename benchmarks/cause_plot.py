"""Plot of what changes of LaDiC's training do: the difference to the base, and which objects captions name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.report_plots import PALETTE

__all__ = ["plot_causes"]


def plot_causes(entries: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws two panels into a PNG file.

    Args:
        entries: One for each arm and way: "arm", "way", "CIDEr-D", "recall", "repeats".
        differences: One for each arm that has a base: "arm", "difference", "low", "high" of CIDEr-D.
        path: PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 4.8), layout="constrained")
    changes, objects = figure.subplots(1, 2)
    for place, entry in enumerate(reversed(differences)):
        ends = [[100 * (entry["difference"] - entry["low"])], [100 * (entry["high"] - entry["difference"])]]
        changes.errorbar(100 * entry["difference"], place, xerr=ends, fmt="o", color=PALETTE[0], capsize=3)
    changes.set_yticks(range(len(differences)), [entry["arm"] for entry in reversed(differences)])
    changes.axvline(0, color="0.5", linewidth=1)
    changes.set_xlabel("CIDEr-D x 100 above its base, 95 % interval")
    names = list(dict.fromkeys(entry["arm"] for entry in entries))
    for entry in entries:
        place = names.index(entry["arm"])
        label = entry["arm"] if entry is next(e for e in entries if e["arm"] == entry["arm"]) else None
        mark = "osD^vP*"[place // len(PALETTE) % 7]
        objects.plot(
            100 * entry["recall"], 100 * entry["repeats"], mark, color=PALETTE[place % len(PALETTE)], label=label
        )
    objects.set_xlabel("% of the objects that are named")
    objects.set_ylabel("% of captions that name one twice and leave another out")
    for panel in (changes, objects):
        panel.grid(alpha=0.2)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
