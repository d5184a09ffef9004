"""Encoders in hosts as tables: scores of captions and answers side by side, and what each swap left to retrain."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from vislex.benchmarks.report_parts import table
from vislex.benchmarks.results import DataRecord, Results, content_key
from vislex.benchmarks.summary import all_pairs, summarise

__all__ = ["host_pairs", "host_rows", "records_together", "swap_rows", "swap_section"]

CAPTION_SCORES = ("CIDEr-D", "ROUGE-L", "scene-F1")


def records_together(results: Results) -> list[list[DataRecord]]:
    """The data of each table: captions and questions of one split, size and way to draw."""
    groups: dict[str, list[DataRecord]] = {}
    for record in results.data.values():
        drawn = {name: value for name, value in record.provenance.items() if name != "task"}
        key = content_key({"name": record.name, "split": record.split, "n": len(record.ids), "drawn": drawn})
        groups.setdefault(key, []).append(record)
    return list(groups.values())


def host_rows(results: Results, records: Sequence[DataRecord]) -> list[dict[str, Any]]:
    """One row a model: scores of captions and answers, means over seeds, on the official scales.

    Args:
        results: What was measured.
        records: The captions and the questions of one table.

    Returns:
        Rows in the order of their runs: of each host as it was, its control, then the swaps; floors and ceiling last.
    """
    order = [made.model.row for made in results.runs]
    rows: dict[str, dict[str, Any]] = {}
    is_bound: dict[str, bool] = {}
    for record in records:
        for task in ("captioning", "vqa"):
            for row in summarise(results, record, task):
                is_bound[row.name] = not row.is_model
                shown = rows.setdefault(row.name, {"row": row.name, "origin": row.origin, "seeds": len(row.runs)})
                swap = (row.model.training or {}).get("swap") or {}
                shown["image tokens"] = swap.get("image_tokens")
                names = CAPTION_SCORES if task == "captioning" else [n for n in row.scores if n.startswith("accuracy")]
                if task == "captioning":
                    shown["ms a caption"] = row.timing("latency_ms")
                for name in names:
                    shown[name] = row.scores.get(name)
                    if name in row.spread:
                        shown[f"{name} sd"] = row.spread[name]
    return [rows[name] for name in sorted(rows, key=lambda name: (is_bound[name], order.index(name)))]


def host_pairs(results: Results, records: Sequence[DataRecord]) -> list[dict[str, Any]]:
    """Every realigned host against its control: paired differences of captions and of answers."""
    return [
        pair.as_dict()
        for record in records
        for task, metric in (("captioning", "CIDEr-D"), ("captioning", "scene-F1"), ("vqa", "accuracy"))
        for pair in all_pairs(results, record, metric, task=task)
    ]


def swap_rows(results: Results) -> list[dict[str, Any]]:
    """What each swap left: kind, tokens an image, and what of each part must be retrained."""
    rows: dict[str, dict[str, Any]] = {}
    for made in results.runs:
        if swap := (made.model.training or {}).get("swap"):
            retrain = {f"retrain {part['part']}": part["retrain"] for part in swap["parts"]}
            kept = {"swap": swap["name"], "kind": swap["kind"], "image tokens": swap["image_tokens"]}
            rows[swap["name"]] = {**kept, **retrain, "notes": "; ".join(swap["notes"])}
    return list(rows.values())


def swap_section(results: Results) -> str:
    """The same for a report's page; "" without a swap."""
    rows = swap_rows(results)
    if not rows:
        return ""
    lines = ["<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row.values()) + "</tr>" for row in rows]
    note = (
        "A new connector means nothing to the language model until it is trained. The control is the host itself with "
        "the same training: what it gains is the training's, not an encoder's."
    )
    return (
        f'<h2>What each swap left to retrain</h2>\n<div class="card scroll">{table(list(rows[0]), lines)}'
        f'<p class="note">{note}</p></div>'
    )
