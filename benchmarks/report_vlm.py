"""Sections of a report for vision-language models: answers by question type, and masks drawn over images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from vislex.benchmarks import report_plots as plots
from vislex.benchmarks.report_parts import dot, label, number, paired, table
from vislex.benchmarks.results import DataRecord, Results
from vislex.benchmarks.summary import Row, all_pairs, floor_pairs, summarise

__all__ = ["segmentation_section", "vqa_section"]

TYPE = "accuracy: "
MASK_SCORES = ("mIoU", "cIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "invalid")


def vqa_section(results: Results, record: DataRecord, n_images: int) -> str:
    """Accuracies by question type, differences from the floors, and answers to the first questions."""
    rows = summarise(results, record, "vqa")
    if not rows:
        return ""
    kinds = sorted(set(record.types.values()))
    counts = Counter(record.types.values())
    head = ["model", "all", *(f"{kind} ({counts[kind]:,})" for kind in kinds), "answers /\u00a0s"]
    lines = _score_lines(rows, ["accuracy", *(TYPE + kind for kind in kinds)])
    scorers = ", ".join(sorted({name for row in rows for run in row.runs for name in run.scorers}))
    note = (
        f"Accuracy in percent ({scorers}); n = {len(record.ids):,} questions, those of each type in brackets. The "
        "floor gives the answer that is most common for the template of the question in training rows; a model without "
        "images is asked the same and shown nothing."
    )
    svg = plots.scores_by_type(rows, kinds, TYPE)
    return (
        f'<h2 id="{record.key}">Questions on {escape(record.name)}, {escape(record.split)}</h2>\n'
        f'<div class="card scroll">{table(head, lines)}<p class="note">{escape(note)}</p></div>\n'
        f"{paired(all_pairs(results, record, 'accuracy', task='vqa'))}\n"
        f"{paired(floor_pairs(results, record, 'vqa'))}\n"
        f'<div class="plots"><div class="card"><h3>Accuracy by question type</h3>{svg}</div></div>\n'
        f"{_answers(rows, record, n_images)}"
    )


def segmentation_section(results: Results, record: DataRecord, n_images: int) -> str:
    """Scores of masks, differences from the filled boxes, and masks over the first images."""
    rows = summarise(results, record, "segmentation")
    if not rows:
        return ""
    head = ["model", *MASK_SCORES, "masks /\u00a0s"]
    note = (
        f"Percent; n = {len(record.ids):,} expressions. mIoU is the mean over expressions (LISA's gIoU), cIoU the sum "
        "of intersections over the sum of unions. Text that is no mask is invalid and scores 0. The floor fills the "
        "boxes that the model itself wrote; the ceiling sends the right masks through the codec and back."
    )
    return (
        f'<h2 id="{record.key}">Segmentation on {escape(record.name)}, {escape(record.split)}</h2>\n'
        f'<div class="card scroll">{table(head, _score_lines(rows, MASK_SCORES))}'
        f'<p class="note">{escape(note)}</p></div>\n'
        f"{paired(floor_pairs(results, record, 'segmentation'))}\n"
        f"{_masks(rows, record, n_images)}"
    )


def _score_lines(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    hue = plots.colours(rows)
    lines = []
    for row in rows:
        cells = [f"<td>{label(row, hue[row.name])}</td>"]
        for name in names:
            spread = f' <small class="sd">± {100 * row.spread[name]:.1f}</small>' if name in row.spread else ""
            value = 100 * row.scores[name] if name in row.scores else None
            cells.append(f"<td>{number(value, 1)}{spread}</td>")
        cells.append(f"<td>{number(row.timing('throughput'), 1)}</td>")
        lines.append(f'<tr class="{"model" if row.is_model else "bound"}">{"".join(cells)}</tr>')
    return lines


def _answers(rows: Sequence[Row], record: DataRecord, n_images: int) -> str:
    hue = plots.colours(rows)
    samples = []
    for place, identity in _shown(record, n_images):
        right = " / ".join(dict.fromkeys(record.references.get(identity, [])))
        given = "".join(
            f"<dt><span>{dot(row, hue[row.name])}{escape(row.name)}</span>"
            f"<span>{100 * row.runs[0].per_image['accuracy'][place]:.0f}</span></dt>"
            f"<dd>{escape(row.runs[0].captions[place]) or '(nothing)'}</dd>"
            for row in rows
        )
        samples.append(
            f'<div class="card sample"><div><img src="{record.images[identity]}" alt="{escape(identity)}">'
            f'<div class="id">{escape(record.types[identity])}</div></div><div>'
            f"<ul><li><b>{escape(record.prompts[identity])}</b></li><li>{escape(right)}</li></ul><dl>{given}</dl>"
            "</div></div>"
        )
    return _grid("Answers", "the number is the answer's own accuracy in percent.", samples)


def _masks(rows: Sequence[Row], record: DataRecord, n_images: int) -> str:
    hue, models = plots.colours(rows), [row for row in rows if row.runs[0].pictures]
    samples = []
    for place, identity in _shown(record, n_images):
        cells = [f'<figure><img src="{record.images[identity]}" alt="right"><figcaption>right</figcaption></figure>']
        for row in models:
            run = row.runs[0]
            if identity in run.pictures:
                iou = "no mask" if run.per_image["invalid"][place] else f"IoU {100 * run.per_image['IoU'][place]:.0f}"
                cells.append(
                    f'<figure><img src="{run.pictures[identity]}" alt="{escape(row.name)}"><figcaption>'
                    f"{dot(row, hue[row.name])}{escape(row.name)}, {iou}</figcaption></figure>"
                )
        samples.append(
            f'<div class="card"><b>{escape(record.prompts[identity])}</b>'
            f'<div class="masks">{"".join(cells)}</div></div>'
        )
    return _grid("Masks", "IoU in percent.", samples)


def _shown(record: DataRecord, n_images: int) -> list[tuple[int, str]]:
    """Places and ids of the first rows that have an image."""
    return [(place, own) for place, own in enumerate(record.ids) if own in record.images][:n_images]


def _grid(title: str, note: str, samples: Sequence[str]) -> str:
    if not samples:
        return ""
    first = f"The first {len(samples)} rows of the split, not chosen ones; {note}"
    return f'<h2>{title}</h2>\n<p class="note">{first}</p>\n<div class="grid">{"".join(samples)}</div>'
