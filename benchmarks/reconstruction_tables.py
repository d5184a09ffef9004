"""Reconstruction against the token budget: table, paired intervals, the sheet of images and the curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vislex.benchmarks.report_plots import PALETTE
from vislex.metrics.factors import FACTORS
from vislex.metrics.statistics import paired_bootstrap

__all__ = ["budget_steps", "plot_curves", "table", "write_sheet"]

_PAIRS = ("PSNR", "SSIM", "feature cosine", "retrieval R@1")


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a model and rung; shares in percent, the distances of sets under their own names."""
    lines = []
    for row in rows:
        scores = row["scores"]
        line: dict[str, Any] = {"model": row["model"], "told": row["rung"], "loss": scores.get("loss")}
        line |= {name: round(100 * scores[name], 1) for name in FACTORS if name in scores}
        line |= {name: scores[name] for name in _PAIRS if name in scores}
        line |= {entry["name"]: entry["value"] for entry in row["sets"].values() if entry["value"] is not None}
        lines.append(line)
    columns = dict.fromkeys(name for line in lines for name in line)
    return [{name: line.get(name) for name in columns} for line in lines]


def budget_steps(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired differences of each budget from the next smaller one of the same model, by score.

    Returns:
        "model", "tokens", "against", "score", "difference", "low", "high", "minimal detectable effect", "n".
    """
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        told = sorted((row for row in rows if row["model"] == model and row["tokens"]), key=lambda row: row["tokens"])
        for fewer, more in itertools.pairwise(told):
            for score in more["per_image"]:
                interval = paired_bootstrap(*(np.asarray(row["per_image"][score]) for row in (more, fewer)))
                found.append(
                    {
                        "model": model,
                        "tokens": more["tokens"],
                        "against": fewer["tokens"],
                        "score": score,
                        "difference": interval.difference,
                        "low": interval.low,
                        "high": interval.high,
                        "minimal detectable effect": interval.minimal_detectable_effect,
                        "n": interval.n,
                    }
                )
    return found


def write_sheet(shown: Mapping[str, Sequence[np.ndarray]], path: Path) -> Path:
    """A column a rung, the original first and then the budgets, a row an image.

    Args:
        shown: Images by rung.
        path: PNG file.
    """
    from vislex.training.sheets import image_sheet

    order = ["original", *(name for name in shown if name.endswith("tokens")), "true caption"]
    columns = [name for name in order if name in shown]
    rows = [list(images) for images in zip(*(shown[name] for name in columns), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    image_sheet(rows, columns=columns).save(path)
    return path


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss, factors and retrieval against the number of tokens; references are horizontal lines.

    Args:
        rows: Of ``reconstruction_rows``, of one model or of several.
        path: PNG file.
    """
    from matplotlib.figure import Figure

    panels = [name for name in ("loss", *FACTORS, "retrieval R@1") if any(name in row["scores"] for row in rows)]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.4 * across, 2.7 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axis, panel in zip(axes, panels, strict=False):
        for place, model in enumerate(models):
            own = [row for row in rows if row["model"] == model and panel in row["scores"]]
            told = sorted((row for row in own if row["tokens"]), key=lambda row: row["tokens"])
            colour = PALETTE[place % len(PALETTE)]
            counts = [row["tokens"] for row in told]
            axis.plot(counts, [row["scores"][panel] for row in told], marker="o", color=colour, label=model)
            if place == 0:
                for row in own:
                    if row["tokens"] is None:
                        axis.axhline(row["scores"][panel], linestyle=":", linewidth=1, color="gray")
                        axis.annotate(row["rung"], (1, row["scores"][panel]), fontsize=6, color="gray")
        axis.set_xscale("log", base=2)
        axis.set_title(panel, fontsize=9)
        axis.grid(alpha=0.2)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.supxlabel("tokens", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
