"""Plots of the experiments on vision-language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.report_plots import PALETTE
from vislex.benchmarks.vlm_measures import BLIND, CAPTIONS, GROUPS, MAJORITY, MASK, VQA

__all__ = ["plot_budgets", "plot_encoders", "plot_groups"]


def plot_encoders(entries: Sequence[Mapping[str, Any]], connectors: Sequence[str], path: Path) -> Path:
    """Draws a panel for each task: encoders as rows, connectors as colours; the line is the majority answer.

    Args:
        entries: One for each arm, "ENCODER + CONNECTOR", with its scores by task.
        connectors: Their names.
        path: PNG file.
    """
    from matplotlib.figure import Figure

    split = [(*entry["arm"].rpartition(" + ")[::2], entry) for entry in entries]
    named = [(encoder, connector, entry) for encoder, connector, entry in split if connector in connectors]
    encoders = list(dict.fromkeys(encoder for encoder, _, _ in named))
    figure = Figure(figsize=(13.0, 1.8 + 0.35 * len(encoders)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for panel, task in zip(panels, (VQA, MASK, CAPTIONS), strict=True):
        for encoder, connector, entry in named:
            shift = 0.12 * (connectors.index(connector) - (len(connectors) - 1) / 2)
            place, colour = -encoders.index(encoder) - shift, PALETTE[connectors.index(connector) % len(PALETTE)]
            label = connector if encoder == encoders[0] and task == VQA else None
            panel.plot(100 * entry[task], place, "o", color=colour, label=label)
            if task == VQA:
                panel.plot(100 * entry[BLIND], place, "o", color=colour, fillstyle="none")
        panel.set_xlabel(f"{task} x 100" + (" (hollow: without images)" if task == VQA else ""))
        panel.grid(alpha=0.2)
    panels[0].set_yticks([-place for place in range(len(encoders))], encoders)
    for entry in entries:
        if entry["arm"] == MAJORITY:
            panels[0].axvline(100 * entry[VQA], color="0.5", linewidth=1, linestyle=":")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def plot_groups(entries: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws the accuracy of each arm, of all questions and by what they ask about.

    Args:
        entries: One for each arm: "arm", ``VQA``, and groups of questions.
        path: PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    panel = figure.subplots()
    names = [name for name in (VQA, *GROUPS) if name in entries[0]]
    width = 0.8 / len(entries)
    for place, entry in enumerate(entries):
        left = [at + (place - (len(entries) - 1) / 2) * width for at in range(len(names))]
        shares = [100 * entry[name] for name in names]
        panel.bar(left, shares, width, color=PALETTE[place % len(PALETTE)], label=entry["arm"])
    panel.set_xticks(range(len(names)), names)
    panel.set_ylabel("% answered")
    panel.grid(alpha=0.2, axis="y")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def plot_budgets(pairs: Sequence[Mapping[str, Any]], speeds: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws accuracy against the number of tokens, of one model and of those trained for it, and answers a second.

    Args:
        pairs: One for each budget: "tokens", and ``VQA`` of both sides.
        speeds: "batch size", "tokens", "answers a second", "low", "high".
        path: PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    quality, speed = figure.subplots(1, 2)
    budgets = [pair["tokens"] for pair in pairs]
    for side, label in enumerate(("one model, TailDrop", "trained for the budget")):
        shares = [100 * pair[VQA][side] for pair in pairs]
        quality.plot(budgets, shares, marker="o", color=PALETTE[side], label=label)
    for place, size in enumerate(dict.fromkeys(entry["batch size"] for entry in speeds)):
        own = [entry for entry in speeds if entry["batch size"] == size]
        middle = [entry["answers a second"] for entry in own]
        ends = [
            [max(0.0, entry["answers a second"] - entry["low"]) for entry in own],
            [max(0.0, entry["high"] - entry["answers a second"]) for entry in own],
        ]
        colour = PALETTE[(place + 2) % len(PALETTE)]
        speed.errorbar(
            [e["tokens"] for e in own], middle, ends, marker="o", color=colour, label=f"batch {size}", capsize=3
        )
    quality.set_ylabel("% of questions answered")
    speed.set_ylabel("answers a second")
    for panel in (quality, speed):
        panel.set_xscale("log", base=2)
        panel.set_xticks(budgets, budgets)
        panel.set_xlabel("tokens an image")
        panel.grid(alpha=0.2)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
