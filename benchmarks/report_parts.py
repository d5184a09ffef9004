"""Pieces of a report's page that its sections share: tables, labels of rows, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vislex.benchmarks import report_plots as plots
from vislex.benchmarks.summary import UNTRAINED, Pair, Row

__all__ = ["dot", "label", "number", "paired", "table"]


def paired(pairs: Sequence[Pair]) -> str:
    """A table and a plot of paired differences; "" without any."""
    if not pairs:
        return ""
    judged = any(pair.verdict for pair in pairs)
    head = ["a", "b", "score of a", "of b", "difference a - b", "95 % interval", "smallest detectable"]
    head += ["margin", "verdict"] if judged else []
    lines = []
    for pair in pairs:
        interval = pair.interval
        colour = "good" if interval.low > 0 else "bad" if interval.high < 0 else ""
        cells = [
            f"<td>{escape(pair.a)}</td><td class='left soft'>{escape(pair.b)}</td>",
            f"<td>{100 * pair.mean_a:.1f}</td><td>{100 * pair.mean_b:.1f}</td>",
            f'<td class="{colour}"><b>{100 * interval.difference:+.1f}</b></td>',
            f"<td>[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]</td>",
            f"<td>{100 * interval.minimal_detectable_effect:.1f}</td>",
        ]
        if judged:
            cells.append(f"<td>{100 * (pair.margin or 0):+.1f}</td><td><b>{escape(pair.verdict or '')}</b></td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    first = pairs[0]
    covers = sorted({pair.covers for pair in pairs})
    note = (
        f"Differences of {first.metric} x 100 on the same images and seeds, by a paired bootstrap over "
        f"{' / '.join(covers)}; n = {first.interval.n:,}. "
        + (
            "The margin was written before the runs."
            if judged
            else "No margin was fixed before, so no verdict is given."
        )
    )
    return (
        f"<h2>Paired differences of {escape(first.metric)}</h2>\n"
        f'<div class="card"><div class="scroll">{table(head, lines)}</div>'
        f'<p class="note">{escape(note)}</p>{plots.paired_differences(pairs)}</div>'
    )


def label(row: Row, colour: str) -> str:
    """A row's name with its colour, origin and seeds."""
    seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
    badge = f'<span class="badge">{escape(row.origin)}{seeds}</span>'
    return f"{dot(row, colour)}{escape(row.name)}{badge}"


def dot(row: Row, colour: str) -> str:
    """The mark of a row; hollow for encoders with random weights."""
    hollow = " hollow" if (row.model.encoder or "").endswith(UNTRAINED) else ""
    return f'<span class="dot{hollow}" style="color:{colour}"></span>'


def number(value: float | None, digits: int) -> str:
    """A number, a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], lines: Sequence[str]) -> str:
    """A table of finished rows."""
    cells = "".join(f'<th class="left">{name}</th>' if name == "b" else f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
