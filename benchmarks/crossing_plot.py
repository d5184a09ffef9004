"""Plot of time against caption length: the autoregressive loops rise, LaDiC's steps are nearly flat."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.crossing import LOOPS
from vislex.benchmarks.report_plots import PALETTE

__all__ = ["plot_crossings"]


def plot_crossings(rows: Sequence[Mapping[str, Any]], stem: Path, *, clock: str = "wall") -> list[Path]:
    """Draws one panel for each scale and batch size.

    Args:
        rows: Of ``ladic_latency``.
        stem: Path without its ending.
        clock: "wall" or "cpu".

    Returns:
        The written files, PNG and SVG; none without rows.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["length"]):
        panels.setdefault((row["scale"], row["dtype"], row["batch size"]), {})[row["length"]] = row
    if not panels:
        return []
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for place, ((scale, dtype, batch_size), by_length) in enumerate(panels.items()):
        axis = axes[place // columns][place % columns]
        names = list(next(iter(by_length.values()))[clock])
        plain = [name for name in names if name not in LOOPS and not name.endswith("guided")]
        for name in names:
            points = [(length, row[clock][name]) for length, row in by_length.items() if name in row[clock]]
            is_loop, guided = name in LOOPS, name.endswith("guided")
            axis.plot(
                [length for length, _ in points],
                [1000 * statistics.median(times) for _, times in points],
                color="#8a8f98" if is_loop else PALETTE[plain.index(name.removesuffix(" guided")) % len(PALETTE)],
                linestyle=":" if name == "generate" else "--" if guided else "-",
                linewidth=2.4 if is_loop else 1.5,
                marker="o",
                markersize=3,
                label=f"autoregressive, {name}" if is_loop else name,
            )
        axis.set_title(f"{scale}, {dtype}, batch {batch_size}", fontsize=10)
        axis.set_xlabel("words a caption")
        axis.set_ylabel(f"{clock} ms a batch")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.2)
    for spare in range(len(panels), lines * columns):
        axes[spare // columns][spare % columns].set_axis_off()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * columns, frameon=False, fontsize=8)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(ending) for ending in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=120)
    return paths
