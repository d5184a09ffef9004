"""Plot of the comparison of LaDiC with autoregression: quality against latency, and quality by caption length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.contenders import CONTENDERS

__all__ = ["plot_comparison"]


def plot_comparison(entries: Sequence[Mapping[str, Any]], lengths: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws one line of panels for each style: CIDEr-D against latency, CIDEr-D and scene-F1 against length.

    Args:
        entries: Of ``table``, of all styles; the ways that were not chosen are drawn pale.
        lengths: Of ``by_length``, of all styles.
        path: PNG file.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    styles = list(dict.fromkeys(entry["style"] for entry in entries))
    figure = Figure(figsize=(13.5, 4.2 * len(styles)), layout="constrained")
    panels = figure.subplots(len(styles), 3, squeeze=False)
    colours = {arm: matplotlib.colormaps["tab10"](place) for place, arm in enumerate(CONTENDERS)}
    for axes, style in zip(panels, styles, strict=True):
        for entry in (e for e in entries if e["style"] == style and e["ms a caption"] is not None):
            arm = entry["arm"]
            axes[0].plot(
                entry["ms a caption"],
                100 * entry["CIDEr-D"],
                "o" if CONTENDERS[arm].is_ladic else "s",
                color=colours[arm],
                alpha=1.0 if entry["chosen"] else 0.3,
                label=arm if entry["chosen"] else None,
            )
        axes[0].set_xscale("log")
        axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[0].xaxis.set_minor_formatter(NullFormatter())
        axes[0].set_xlabel("ms a caption at batch 1, image encoding included")
        axes[0].set_ylabel("CIDEr-D x 100")
        for panel, metric in ((axes[1], "CIDEr-D"), (axes[2], "scene-F1")):
            for arm in dict.fromkeys(e["arm"] for e in lengths if e["style"] == style):
                own = [e for e in lengths if (e["style"], e["arm"]) == (style, arm)]
                values = [100 * e[metric] for e in own]
                line = "-" if CONTENDERS[arm].is_ladic else "--"
                panel.plot([e["words"] for e in own], values, line, marker="o", markersize=3, color=colours[arm])
            panel.set_xlabel("words of the references")
            panel.set_ylabel(f"{metric} x 100")
        for panel in axes:
            panel.set_title(f"{style} captions", fontsize=10)
            panel.grid(alpha=0.2)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
