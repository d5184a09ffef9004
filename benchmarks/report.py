"""A comparison as one HTML file: tables, intervals, plots, captions beside their references, and how it was made.

The page makes no request: style, plots (inline SVG) and images (data URIs) are inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from vislex.benchmarks import report_plots as plots
from vislex.benchmarks.host_tables import swap_section
from vislex.benchmarks.report_parts import dot, label, number, paired, table
from vislex.benchmarks.report_traces import trace_section
from vislex.benchmarks.report_vlm import segmentation_section, vqa_section
from vislex.benchmarks.results import DataRecord, Results, Run
from vislex.benchmarks.summary import Row, all_pairs, summarise
from vislex.errors import DataError

__all__ = ["captioning_table", "render", "write_report"]

SCORES = ("CIDEr-D", "BLEU-4", "ROUGE-L", "scene-F1", "objects-F1", "hallucination", "novelty")
HUNDREDFOLD = {*SCORES, "BLEU-1", "BLEU-2", "BLEU-3"}
UNJUDGED = {"novelty"}  # neither more nor less of it is better
LOWER_IS_BETTER = {"hallucination"}
PAIRED = ("CIDEr-D", "scene-F1")
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')


def write_report(results: Results, path: str | Path, *, title: str | None = None, n_images: int = 24) -> Path:
    """Writes the page.

    Args:
        results: What was measured; several result files are joined with ``Results.merge``.
        path: File to write; its folder is made.
        title: Headline; made from the data if None.
        n_images: Most images in the grid; they are the first rows of the split, not chosen ones.

    Returns:
        ``path``.

    Raises:
        DataError: If there is no run to report.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, title=title, n_images=n_images), encoding="utf-8")
    return path


def render(results: Results, *, title: str | None = None, n_images: int = 24) -> str:
    """The page as one string; see ``write_report``."""
    if not results.runs:
        raise DataError("there is no finished run to report; make one with 'vislex compare' or 'vislex bench'")
    used = [record for key, record in results.data.items() if any(run.data == key for run in results.runs)]
    sections = [_captioning(results, record, n_images) for record in used]
    sections += [_retrieval(results, record) for record in used]
    sections += [
        section(results, record, n_images) for record in used for section in (vqa_section, segmentation_section)
    ]
    sections += [_latency(results), swap_section(results), _provenance(results)]
    body = "\n".join(section for section in sections if section)
    heading = title or "Vision encoders and caption decoders, compared"
    credits = sorted({record.attribution for record in used if record.attribution})
    style = resources.files("vislex.benchmarks").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{_header(heading, results, used, body)}\n{body}\n<footer>{escape(chr(10).join(credits))}</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def captioning_table(rows: Sequence[Row]) -> str:
    """The summary table: scores x 100 with their spread over seeds, time, evaluations and parameters."""
    names = [name for name in SCORES if any(name in row.scores for row in rows)]
    models = [row for row in rows if row.is_model]
    best = {name: None if name in UNJUDGED else _best(models, name) for name in names}
    top = max((row.scores.get("CIDEr-D", 0.0) for row in rows), default=0.0) or 1.0
    hue = plots.colours(rows)
    head = ["model", *names, "ms", "captions /\u00a0s", "evaluations", "trained", "frozen"]
    lines = []
    for row in rows:
        cells = [f"<td>{label(row, hue[row.name])}</td>"]
        for name in names:
            text = _score(row, name)
            strong = ' class="best"' if row.name == best[name] and len(models) > 1 else ""
            if name == "CIDEr-D":
                width = 100 * max(0.0, row.scores.get(name, 0.0)) / top
                cells.append(f'<td class="bar"><i style="width:{width:.1f}%"></i><span{strong}>{text}</span></td>')
            else:
                cells.append(f"<td><span{strong}>{text}</span></td>")
        for field, digits in (("latency_ms", 1), ("throughput", 0), ("evaluations", 1)):
            cells.append(f"<td>{number(row.timing(field) if row.is_model else None, digits)}</td>")
        counts = row.model.parameters
        for count in (counts.get("budgeted", counts.get("trainable")), counts.get("frozen")):
            cells.append(f"<td>{_count(count)}</td>")
        lines.append(f'<tr class="{"model" if row.is_model else "bound"}">{"".join(cells)}</tr>')
    return table(head, lines)


def _header(heading: str, results: Results, used: Sequence[DataRecord], body: str) -> str:
    first = results.runs[0].provenance
    seeds = sorted({run.model.seed for run in results.runs if run.model.seed is not None})
    data = dict.fromkeys(f"{record.name}, {record.split}, n = {len(record.ids):,}" for record in used)
    chips = [("data", text) for text in data]
    if budget := (results.config or {}).get("budget"):
        chips.append(("budget", str(budget)))
    if seeds:
        chips.append(("training seeds", ", ".join(map(str, seeds))))
    git = first.get("git") or {}
    chips += [
        ("made", str(first.get("time", "?")).replace("T", " ").replace("+00:00", " UTC")),
        ("vislex", str(first.get("vislex", "?")) + (f" at {git['revision'][:9]}" if git.get("revision") else "")),
        ("machine", f"{first.get('processor', '?')}, {first.get('threads')} threads"),
    ]
    items = "".join(f'<span class="chip"><b>{escape(name)}</b> {escape(value)}</span>' for name, value in chips)
    links = "".join(f'<a href="#{place}">{name}</a>' for place, name in re.findall(HEADING, body))
    return (
        f"<header><h1>{escape(heading)}</h1>\n"
        '<p class="soft">Every row shares the data, tokenizer, post-processing and budget; rows differ in what their '
        "name says. Scores are on the official scales times 100.</p>\n"
        f'<div class="chips">{items}</div><nav>{links}</nav></header>'
    )


def _captioning(results: Results, record: DataRecord, n_images: int) -> str:
    rows = summarise(results, record)
    if not rows:
        return ""
    pairs = [all_pairs(results, record, metric) for metric in PAIRED]
    drawn = [
        ("Quality against latency", plots.quality_against_latency(rows)),
        ("Quality by caption length", plots.quality_by_length(rows, record)),
        ("Learning curves", plots.learning_curves(rows)),
    ]
    cards = "".join(f'<div class="card"><h3>{name}</h3>{svg}</div>' for name, svg in drawn if svg)
    hue = plots.colours(rows)
    steps = trace_section(rows, record, lambda row: dot(row, hue[row.name]) + escape(row.name))
    notes = (
        f"n = {len(record.ids):,} images; the idf of CIDEr-D is taken over the same {len(record.ids):,}. ± is the "
        "standard deviation over training seeds. Hollow marks and dashed lines are encoders with random weights, "
        "trained in the same way. The floors see no image, or only its pixels; the ceiling is one held-out reference "
        "scored against the others. ms is the wall time of one caption at batch 1, image encoding included; one "
        "forward of one caption is an evaluation. Trained parameters are counted without token embeddings and tied "
        "heads. Novelty is the share of captions that are no caption of the training rows that the floors see."
    )
    return (
        f'<h2 id="{record.key}">Captioning on {escape(record.name)}, {escape(record.split)}</h2>\n'
        f'<div class="card scroll summary">{captioning_table(rows)}<p class="note">{notes}</p></div>\n'
        f'{"".join(map(paired, pairs))}\n<div class="plots">{cards}</div>\n{steps}\n'
        f"{_grid(rows, record, n_images)}"
    )


def _grid(rows: Sequence[Row], record: DataRecord, n_images: int) -> str:
    shown = [row for row in rows if row.is_model and row.runs[0].captions]
    places = [index for index, identity in enumerate(record.ids) if identity in record.images][:n_images]
    if not shown or not places:
        return ""
    hue = plots.colours(rows)
    samples = []
    for place in places:
        identity = record.ids[place]
        references = "".join(f"<li>{escape(text)}</li>" for text in record.references.get(identity, [])[:5])
        captions = "".join(_caption(row, place, hue[row.name]) for row in shown)
        samples.append(
            f'<div class="card sample"><div><img src="{record.images[identity]}" alt="{escape(identity)}">'
            f'<div class="id">{escape(identity)}</div></div><div><ul>{references}</ul><dl>{captions}</dl></div></div>'
        )
    note = (
        f"The first {len(places)} images of the split, not chosen ones. Bullets are references; "
        "the number is the caption's own CIDEr-D x 100."
    )
    return f'<h2>Captions</h2>\n<p class="note">{note}</p>\n<div class="grid">{"".join(samples)}</div>'


def _caption(row: Row, place: int, colour: str) -> str:
    run = row.runs[0]
    score = run.per_image.get("CIDEr-D")
    own = f"{100 * score[place]:.0f}" if score else ""
    text = escape(run.captions[place]) or '<span class="soft">(empty)</span>'
    return f"<dt><span>{dot(row, colour)}{escape(row.name)}</span><span>{own}</span></dt><dd>{text}</dd>"


def _retrieval(results: Results, record: DataRecord) -> str:
    rows = summarise(results, record, task="retrieval")
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    lines = []
    for row in rows:
        cells = "".join(
            f"<td>{number(100 * row.scores[name], 1) if name in row.scores else '–'}</td>" for name in names
        )
        lines.append(f"<tr><td>{label(row, plots.PALETTE[0])}</td>{cells}</tr>")
    return (
        f"<h2>Retrieval on {escape(record.name)}, {escape(record.split)}</h2>\n"
        f'<div class="card scroll">{table(["model", *names], lines)}'
        f'<p class="note">Percent; {len(record.ids):,} images in the pool.</p></div>'
    )


def _latency(results: Results) -> str:
    runs = [run for run in results.runs if run.task == "latency"]
    if not runs:
        return ""
    head = ["model", *runs[0].table[0]]
    lines = []
    for run in runs:
        for entry in run.table:
            cells = "".join(
                f"<td>{number(value, 2) if isinstance(value, float) else value}</td>" for value in entry.values()
            )
            lines.append(f"<tr><td>{escape(run.model.row)}</td>{cells}</tr>")
    svg = plots.latency_curve({run.model.row: run.table for run in runs})
    return (
        f'<h2>Latency</h2>\n<div class="card scroll">{table(head, lines)}</div>'
        f'<div class="plots"><div class="card"><h3>Throughput by batch size</h3>{svg}</div></div>'
    )


def _provenance(results: Results) -> str:
    def block(summary: str, value: Any) -> str:
        text = escape(json.dumps(value, indent=2, sort_keys=False, default=str))
        return f"<details><summary>{escape(summary)}</summary><pre>{text}</pre></details>"

    commands = sorted({str(run.provenance.get("command")) for run in results.runs})
    blocks = [block("The comparison's config, written before the runs", results.config)] if results.config else []
    blocks += [block(f"Data: {record.name}, {record.split}", record.provenance) for record in results.data.values()]
    blocks += [block(_run_title(run), _run_facts(run)) for run in results.runs]
    shown = "\n".join(commands)
    return (
        f'<h2 id="provenance">How it was made</h2>\n<div class="card"><pre>{escape(shown)}</pre>\n'
        + "\n".join(blocks)
        + "</div>"
    )


def _run_title(run: Run) -> str:
    seed = "" if run.model.seed is None else f", seed {run.model.seed}"
    return f"{run.task}: {run.model.row} ({run.model.origin}{seed})"


def _run_facts(run: Run) -> dict[str, Any]:
    facts = run.model_dump(
        exclude={
            "per_image": True,
            "captions": True,
            "pictures": True,
            "traces": True,
            "table": True,
            "model": {"curve"},
        }
    )
    return {name: value for name, value in facts.items() if value not in (None, [], {})}


def _score(row: Row, name: str) -> str:
    if name not in row.scores:
        return "–"
    scale = 100.0 if name in HUNDREDFOLD else 1.0
    text = f"{scale * row.scores[name]:.1f}"
    return text + (f' <small class="sd">± {scale * row.spread[name]:.1f}</small>' if name in row.spread else "")


def _best(rows: Sequence[Row], name: str) -> str | None:
    scored = [row for row in rows if name in row.scores]
    if not scored:
        return None
    sign = -1 if name in LOWER_IS_BETTER else 1
    return max(scored, key=lambda row: sign * row.scores[name]).name


def _count(value: int | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value:,}"
