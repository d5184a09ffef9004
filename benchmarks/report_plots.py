"""Plots of a report as inline SVG: text and axes take the page's colour, so that they read on light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vislex.benchmarks.results import DataRecord
from vislex.benchmarks.summary import UNTRAINED, Pair, Row, length_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PALETTE",
    "colours",
    "latency_curve",
    "learning_curves",
    "paired_differences",
    "quality_by_length",
    "scores_by_type",
]

PALETTE = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NEUTRAL = "#8a8f98"
INK = "#010203"  # stands for the page's text colour until the SVG is written
SURFACE = "#040506"  # stands for the page's background


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """A colour for every row: one hue an encoder (its untrained control shares it), grey for floors and ceilings."""
    hues: dict[str, str] = {}
    chosen = {}
    for row in sorted(rows, key=lambda row: row.name):
        if not row.is_model:
            chosen[row.name] = NEUTRAL
            continue
        family = (row.model.encoder or row.name).removesuffix(UNTRAINED)
        chosen[row.name] = hues.setdefault(family, PALETTE[len(hues) % len(PALETTE)])
    return chosen


def quality_against_latency(rows: Sequence[Row], metric: str = "CIDEr-D") -> str | None:
    """Scatter of a score against the time of one caption; hollow marks are encoders with random weights."""
    shown = [row for row in rows if row.is_model and row.timing("latency_ms") and metric in row.scores]
    if not shown:
        return None
    figure, axes = _figure(6.2, 4.6)
    hue, marker = colours(shown), _markers(shown)
    for row in shown:
        hollow = (row.model.encoder or "").endswith(UNTRAINED)
        axes.errorbar(
            row.timing("latency_ms") or 0.0,
            100 * row.scores[metric],
            xerr=_latency_error(row),
            fmt=marker[row.name],
            markersize=9 if row.origin != "shipped" else 11,
            color=hue[row.name],
            markerfacecolor=SURFACE if hollow else hue[row.name],
            markeredgewidth=1.8,
            elinewidth=1.2,
            alpha=0.95,
        )
    top = max(100 * row.scores[metric] for row in shown)
    axes.set_ylim(min(0.0, *(100 * row.scores[metric] for row in shown)), max(top * 1.18, 1e-3))
    axes.set_xlabel("milliseconds a caption (batch 1, image encoding included)")
    axes.set_ylabel(f"{metric} x 100")
    if max(row.timing("latency_ms") or 0 for row in shown) > 8 * min(row.timing("latency_ms") or 1 for row in shown):
        axes.set_xscale("log")
    _legend(axes, shown, hue, marker)
    return _svg(figure, "latency")


def quality_by_length(rows: Sequence[Row], data: DataRecord, metric: str = "CIDEr-D") -> str | None:
    """A score in bins of equal number by the mean length of an image's references."""
    shown = [row for row in rows if all(metric in run.per_image for run in row.runs)]
    if not shown or not data.references:
        return None
    lengths = [float(np.mean([len(text.split()) for text in data.references[identity]])) for identity in data.ids]
    bins = length_bins(lengths)
    if len(bins) < 2:
        return None
    figure, axes = _figure(6.2, 4.6)
    hue, marker = colours(shown), _markers(shown)
    places = np.arange(len(bins))
    for row in shown:
        scores = np.mean([run.per_image[metric] for run in row.runs], axis=0)
        means = [100 * float(scores[mask].mean()) for _, _, mask in bins]
        hollow = (row.model.encoder or "").endswith(UNTRAINED)
        style = ":" if not row.is_model else "--" if hollow else "-"
        axes.plot(
            places,
            means,
            style,
            marker=marker.get(row.name, "."),
            color=hue[row.name],
            markerfacecolor=SURFACE if hollow else hue[row.name],
            linewidth=1.8,
            markersize=6,
        )
    axes.set_xticks(places, [f"{low:.1f}–{high:.1f}\nn={int(mask.sum())}" for low, high, mask in bins])
    axes.set_xlabel("words in the references (mean of an image)")
    axes.set_ylabel(f"{metric} x 100")
    _legend(axes, shown, hue, marker)
    return _svg(figure, "length")


def learning_curves(rows: Sequence[Row]) -> str | None:
    """Validation loss where it was measured, else training loss, against the training step; one line a seed."""
    shown = [row for row in rows if any(_curve(run.model.curve)[0] for run in row.runs)]
    if not shown:
        return None
    figure, axes = _figure(6.2, 4.6)
    hue, marker = colours(shown), _markers(shown)
    names = set()
    for row in shown:
        hollow = (row.model.encoder or "").endswith(UNTRAINED)
        for run in row.runs:
            points, name = _curve(run.model.curve)
            if not points:
                continue
            names.add(name)
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps,
                values,
                "--" if hollow else "-",
                color=hue[row.name],
                marker=marker[row.name],
                markersize=5,
                markevery=max(1, len(steps) // 8),
                markerfacecolor=SURFACE if hollow else hue[row.name],
                linewidth=1.6,
                alpha=0.9,
            )
    axes.set_xlabel("training step")
    axes.set_ylabel(" / ".join(sorted(names)))
    _legend(axes, shown, hue, marker)
    return _svg(figure, "curves")


def paired_differences(pairs: Sequence[Pair]) -> str | None:
    """Forest plot of paired differences with their intervals, and the margin where one was fixed."""
    if not pairs:
        return None
    figure, axes = _figure(12.5, 0.9 + 0.42 * len(pairs))
    for place, pair in enumerate(reversed(pairs)):
        low, middle, high = (100 * x for x in (pair.interval.low, pair.interval.difference, pair.interval.high))
        colour = "#10b981" if low > 0 else "#ef4444" if high < 0 else NEUTRAL
        axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot([middle], [place], "o", color=colour, markersize=8)
        if pair.margin is not None:
            axes.plot([100 * pair.margin] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1, linestyle=":")
    axes.axvline(0, color=INK, linewidth=1, alpha=0.6)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_yticks(range(len(pairs)), [f"{pair.a}  vs  {pair.b}" for pair in reversed(pairs)])
    axes.set_xlabel(f"difference of {pairs[0].metric} x 100, 95 % interval")
    axes.grid(axis="y", visible=False)
    return _svg(figure, "pairs")


def latency_curve(tables: dict[str, list[dict[str, Any]]]) -> str | None:
    """Captions a second against the batch size, one line a model.

    Args:
        tables: Rows with "batch_size" and "captions a second", by model.
    """
    if not any(tables.values()):
        return None
    figure, axes = _figure(6.2, 4.6)
    for index, (name, table) in enumerate(tables.items()):
        axes.plot(
            [row["batch size"] for row in table],
            [row["captions a second"] for row in table],
            marker=MARKERS[index % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            linewidth=1.8,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size")
    axes.set_ylabel("captions a second")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "throughput")


def scores_by_type(rows: Sequence[Row], kinds: Sequence[str], prefix: str) -> str:
    """Bars of ``prefix + kind`` for every row, in percent; grey ones are floors."""
    figure, axes = _figure(max(6.2, 0.9 * len(kinds)), 4.2)
    width, floors = 0.8 / len(rows), 0
    for place, row in enumerate(rows):
        colour = PALETTE[place % len(PALETTE)] if row.is_model else NEUTRAL
        heights = [100 * row.scores.get(prefix + kind, 0.0) for kind in kinds]
        at = np.arange(len(kinds)) + (place - (len(rows) - 1) / 2) * width
        axes.bar(at, heights, width, color=colour, alpha=1.0 if row.is_model else 0.8 / (1 + floors), label=row.name)
        floors += not row.is_model
    axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "types")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
        axes.spines[side].set_alpha(0.4)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9.5)
    return figure, axes


def _svg(figure: Figure, salt: str) -> str:
    import matplotlib

    for legend in [*figure.legends, figure.axes[0].get_legend()]:
        for entry in legend.get_texts() if legend is not None else ():
            entry.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"vislex-{salt}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(SURFACE, "var(--surface)")
    text = re.sub(r"(font(?:-family)?:[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1inherit", text)
    text = re.sub(r"font: ([\d.]+px) inherit", r"font-size: \1", text)
    text = re.sub(r"\bid=\"(?!m[0-9a-f]{10}|p[0-9a-f]{10})[^\"]*\"", "", text)  # ids that two plots would share
    text = re.sub(r'<svg ([^>]*?)width="[\d.]+pt" height="[\d.]+pt"', r"<svg \1", text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def _markers(rows: Sequence[Row]) -> dict[str, str]:
    decoders = sorted({row.model.decoder or "" for row in rows if row.is_model})
    return {row.name: MARKERS[decoders.index(row.model.decoder or "") % len(MARKERS)] for row in rows if row.is_model}


def _legend(axes: Axes, rows: Sequence[Row], hue: dict[str, str], marker: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for row in sorted(rows, key=lambda row: (not row.is_model, row.name)):
        hollow = (row.model.encoder or "").endswith(UNTRAINED)
        handles.append(
            Line2D(
                [],
                [],
                color=hue[row.name],
                marker=marker.get(row.name, "."),
                linestyle=":" if not row.is_model else "--" if hollow else "-",
                markerfacecolor=SURFACE if hollow else hue[row.name],
                label=row.name,
                markersize=6,
            )
        )
    axes.figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower center", ncols=2)


def _latency_error(row: Row) -> list[list[float]] | None:
    low, middle, high = (row.timing(f"latency{which}_ms") for which in ("_low", "", "_high"))
    if low is None or middle is None or high is None:
        return None
    return [[max(0.0, middle - low)], [max(0.0, high - middle)]]


def _curve(points: list[dict[str, float]]) -> tuple[list[tuple[float, float]], str]:
    """Steps and values of the validation loss, or of the training loss where there is none."""
    for name, label in (("eval_loss", "validation loss"), ("loss", "training loss")):
        chosen = [(point["step"], point[name]) for point in points if name in point and "step" in point]
        if len(chosen) > 1:
            return chosen, label
    return [], ""
