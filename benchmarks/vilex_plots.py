"""Plots of the experiments on ViLex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.report_plots import PALETTE

__all__ = ["plot_gains", "plot_guidance", "plot_portability", "plot_thresholds", "plot_tokens"]


def _figure(panels: int, width: float = 4.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.2)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def plot_thresholds(checks: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Measured shares with their intervals, and the threshold that each must reach.

    Args:
        checks: "measured", "factor", "share", "low", "high", "least".
        path: PNG file.
    """
    figure, (axis,) = _figure(1, 6.5)
    for place, check in enumerate(checks):
        low, share, high = (100 * check[name] for name in ("low", "share", "high"))
        colour = PALETTE[place % len(PALETTE)]
        axis.errorbar(place, share, [[max(0, share - low)], [max(0, high - share)]], fmt="o", color=colour, capsize=4)
        axis.hlines(100 * check["least"], place - 0.3, place + 0.3, color="gray", linestyle=":")
    names = [f"{check['factor']}\n{check['measured']}" for check in checks]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_ylabel("% read as told (dotted: threshold)")
    axis.set_ylim(0, 102)
    return _saved(figure, path)


def plot_tokens(rungs: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss and what is read against the number of tokens, the ladder as lines, and the loss by number of objects.

    Args:
        rungs: One for each way: "arm", "tokens" (None for a text), "loss", "concept", "never named".
        groups: "objects", "tokens" and the "share" of the reduction that TailDrop reaches with them.
        path: PNG file.
    """
    figure, (losses, factors, objects) = _figure(3)
    for place, arm in enumerate(dict.fromkeys(row["arm"] for row in rungs)):
        own = [row for row in rungs if row["arm"] == arm and row["loss"] is not None]
        colour = PALETTE[place % len(PALETTE)]
        told = sorted((row for row in own if row["tokens"]), key=lambda row: row["tokens"])
        counts = [row["tokens"] for row in told]
        if told:
            losses.plot(counts, [row["loss"] for row in told], marker="o", color=colour, label=arm)
            factors.plot(counts, [100 * row["concept"] for row in told], marker="o", color=colour)
            factors.plot(counts, [100 * row["never named"] for row in told], marker="^", linestyle="--", color=colour)
        for row in own:
            if row["tokens"] is None:
                losses.axhline(row["loss"], linestyle=":", color=colour, label=arm)
    for place, count in enumerate(sorted({row["objects"] for row in groups})):
        own = [row for row in groups if row["objects"] == count]
        shares = [100 * row["share"] for row in own]
        objects.plot([row["tokens"] for row in own], shares, marker="o", color=PALETTE[place], label=f"{count} objects")
    for axis in (losses, factors, objects):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("tokens")
    losses.set_ylabel("denoising loss")
    factors.set_ylabel("% read (o names, ^ never named)")
    objects.set_ylabel("% of the reduction with all tokens")
    if groups:
        objects.legend(frameon=False, fontsize=8)
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return _saved(figure, path)


def plot_gains(gains: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """What each arm's probes read more than the untouched encoder's, by tier, one panel a probe.

    Args:
        gains: "probe", "arm", "tier", "difference", "low", "high".
        path: PNG file.
    """
    probes = list(dict.fromkeys(row["probe"] for row in gains)) or ["no probe"]
    arms = list(dict.fromkeys(row["arm"] for row in gains))
    tiers = list(dict.fromkeys(row["tier"] for row in gains))
    figure, axes = _figure(len(probes))
    for axis, probe in zip(axes, probes, strict=True):
        for place, arm in enumerate(arms):
            for row in (row for row in gains if (row["probe"], row["arm"]) == (probe, arm)):
                low, middle, high = (100 * row[name] for name in ("low", "difference", "high"))
                where = tiers.index(row["tier"]) + 0.8 * place / len(arms)
                spread = [[max(0, middle - low)], [max(0, high - middle)]]
                axis.errorbar(where, middle, spread, fmt="o", color=PALETTE[place % len(PALETTE)], capsize=3)
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set_xticks(range(len(tiers)), tiers, fontsize=8)
        axis.set_title(probe, fontsize=9)
    axes[0].set_ylabel("points above the untouched encoder")
    for place, arm in enumerate(arms):
        axes[0].plot([], [], "o", color=PALETTE[place % len(PALETTE)], label=arm)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return _saved(figure, path)


def plot_guidance(curve: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Identity and compliance against the weight of the text, and one against the other.

    Args:
        curve: "w" (None for the text alone), "identity", "compliance" and their "low" and "high" ends.
        path: PNG file.
    """
    figure, (by_weight, against) = _figure(2)
    told = [row for row in curve if row["w"] is not None]
    for place, name in enumerate(("identity", "compliance")):
        middle = [100 * row[name] for row in told]
        ends = [
            [max(0.0, 100 * (row[name] - row[f"{name} low"])) for row in told],
            [max(0.0, 100 * (row[f"{name} high"] - row[name])) for row in told],
        ]
        weights = [row["w"] for row in told]
        by_weight.errorbar(weights, middle, ends, marker="o", capsize=3, color=PALETTE[place], label=name)
    against.plot([100 * row["compliance"] for row in told], [100 * row["identity"] for row in told], "o-", color="gray")
    for row in curve:
        label = "text alone" if row["w"] is None else f"w = {row['w']:g}"
        against.plot(100 * row["compliance"], 100 * row["identity"], "o", color=PALETTE[2 if row["w"] is None else 0])
        against.annotate(label, (100 * row["compliance"], 100 * row["identity"]), fontsize=7)
    by_weight.set_xlabel("weight w of the text (text-free guidance)")
    by_weight.set_ylabel("% read")
    by_weight.legend(frameon=False, fontsize=8)
    against.set_xlabel("% compliance with the prompt")
    against.set_ylabel("% identity of the subject")
    return _saved(figure, path)


def plot_portability(lines: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """What is read from the drawings of two denoisers against the number of tokens; captions and no words as lines.

    Args:
        lines: "denoiser", "told", "tokens" (None for a text), "all", "never named".
        path: PNG file.
    """
    figure, panels = _figure(2)
    for axis, name in zip(panels, ("all", "never named"), strict=True):
        for place, denoiser in enumerate(dict.fromkeys(row["denoiser"] for row in lines)):
            own, colour = [row for row in lines if row["denoiser"] == denoiser], PALETTE[place]
            told = sorted((row for row in own if row["tokens"]), key=lambda row: row["tokens"])
            shares = [100 * row[name] for row in told]
            axis.plot([row["tokens"] for row in told], shares, marker="o", color=colour, label=denoiser)
            for row, style in zip((row for row in own if not row["tokens"]), ("--", ":"), strict=False):
                axis.axhline(100 * row[name], linestyle=style, color=colour, label=f"{denoiser[0]}, {row['told']}")
        axis.set_xscale("log", base=2)
        axis.set_xlabel("tokens")
        axis.set_ylabel(f"% read, {name} factors")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    return _saved(figure, path)
