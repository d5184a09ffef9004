"""How captions came about, step by step: a section of the report for decoders that write in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from vislex.benchmarks.results import DataRecord, Run, Step
from vislex.benchmarks.summary import Row
from vislex.decoders.trace import HIDDEN

__all__ = ["trace_section"]

MOST_IMAGES = 4


def trace_section(rows: Sequence[Row], record: DataRecord, label: Callable[[Row], str]) -> str:
    """Images beside the words that each decoder had after every step; nothing if no run kept them.

    Args:
        rows: Rows of the summary, of each its first run.
        record: The images.
        label: A row's name as HTML.
    """
    told = [(row, row.runs[0]) for row in rows if row.runs[0].traces]
    shown = [i for i in record.ids if i in record.images and any(i in run.traces for _, run in told)][:MOST_IMAGES]
    if not shown:
        return ""
    cards = [
        f'<div class="card sample"><div><img src="{record.images[identity]}" alt="{escape(identity)}">'
        f'<div class="id">{escape(identity)}</div></div><div class="traces">'
        + "".join(_trace(label(row), run, identity, record) for row, run in told if identity in run.traces)
        + "</div></div>"
        for identity in shown
    ]
    note = (
        "These decoders write all positions at once; a line is one step. Coloured words changed in that step, grey "
        "bars are words not written yet. The share left is the noise level of a denoised caption, and the share of "
        "positions still hidden in an unmasked one. The last line is the caption after post-processing."
    )
    return f'<h2>Captions coming about</h2>\n<p class="note">{note}</p>\n<div class="stack">{"".join(cards)}</div>'


def _trace(label: str, run: Run, identity: str, record: DataRecord) -> str:
    steps = run.traces[identity]
    width = max(sum(step.pieces) for step in steps)
    lines = "".join(_line(number, step, width) for number, step in enumerate(steps, start=1))
    caption = escape(run.captions[record.ids.index(identity)]) or '<span class="soft">(empty)</span>'
    return (
        f'<div class="trace scroll"><h3>{label}</h3><table class="steps"><thead><tr><th>step</th><th>left</th>'
        f'<th class="left" colspan="{width}">words</th></tr></thead><tbody>{lines}'
        f'<tr class="final"><td colspan="2">caption</td><td colspan="{width}">{caption}</td></tr></tbody></table></div>'
    )


def _line(number: int, step: Step, width: int) -> str:
    share = f"{100 * step.time:.0f}"
    cells = "".join(
        f'<td colspan="{pieces}">{_word(word, changed)}</td>'
        for word, pieces, changed in zip(step.words, step.pieces, step.changed, strict=True)
    )
    rest = width - sum(step.pieces)
    empty = f'<td colspan="{rest}"></td>' if rest else ""
    return (
        f'<tr><td>{number}</td><td class="bar"><i style="width:{share}%"></i><span>{share} %</span></td>'
        f"{cells}{empty}</tr>"
    )


def _word(word: str, changed: bool) -> str:
    if word == HIDDEN:
        return '<span class="hidden" title="not written yet"></span>'
    return f'<span class="word{" new" if changed else ""}">{escape(word)}</span>'
