"""Plot of the latent spaces of LaDiC: the round trip by noise, the captions' quality, what neighbours share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.report_plots import PALETTE

__all__ = ["plot_latent_spaces"]


def plot_latent_spaces(entries: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws three panels into a PNG file.

    Args:
        entries: One for each arm: "arm", "scene-F1", "CIDEr-D", "noise <level>", "objects, nearest", ...
        path: PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    trip, quality, shared = figure.subplots(1, 3)
    for place, entry in enumerate(entries):
        colour = PALETTE[place % len(PALETTE)]
        levels = [name for name in entry if name.startswith("noise ")]
        shares = [100 * entry[name] for name in levels]
        trip.plot([float(name.split()[1]) for name in levels], shares, marker="o", color=colour, label=entry["arm"])
        quality.plot(100 * entry["scene-F1"], 100 * entry["CIDEr-D"], "o", color=colour)
        for kind, mark in (("objects", "o"), ("relations", "^")):
            if f"{kind}, nearest" in entry:
                shared.plot(100 * entry[f"{kind}, random"], 100 * entry[f"{kind}, nearest"], mark, color=colour)
    trip.set_xlabel("noise (standard deviations of the latents)")
    trip.set_ylabel("% of words that come back")
    quality.set_xlabel("scene-F1 x 100")
    quality.set_ylabel("CIDEr-D x 100")
    shared.set_xlabel("% shared with a random caption")
    shared.set_ylabel("% shared with the nearest (o objects, ^ relations)")
    for panel in (trip, quality, shared):
        panel.grid(alpha=0.2)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
