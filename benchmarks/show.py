"""The tables of a finished comparison on the terminal, or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vislex.benchmarks.results import read_results
from vislex.benchmarks.summary import all_pairs, floor_pairs, summarise
from vislex.cli.console import print_json, print_table, say

__all__ = ["show"]

ROWS = ["row", "origin", "seeds", "CIDEr-D", "BLEU-4", "ROUGE-L", "scene-F1", "ms a caption", "evaluations"]
OTHER = {
    "vqa": ["row", "origin", "accuracy", "answers a second"],
    "segmentation": ["row", "origin", "mIoU", "cIoU", "P@0.5", "invalid", "answers a second"],
}
PAIRS = ["a", "b", "difference", "low", "high", "n", "seeds", "minimal detectable effect", "verdict"]


def show(report: Path, *, json: bool = False, verdicts: bool = True) -> None:
    """Prints the tables of a finished comparison and the path of its report."""
    results = read_results([report.parent])
    tables: list[dict[str, Any]] = []
    for record in results.data.values():
        shared = {"data": record.name, "split": record.split, "n": len(record.ids)}
        if rows := [row.as_dict() for row in summarise(results, record)]:
            pairs = [pair.as_dict() for pair in all_pairs(results, record)]
            tables.append({"task": "captioning", **shared, "rows": rows, "pairs": pairs})
        for task in OTHER:
            if found := summarise(results, record, task):
                rows = [{**row.as_dict(), "answers a second": row.timing("throughput")} for row in found]
                pairs = [pair.as_dict() for pair in floor_pairs(results, record, task)]
                tables.append({"task": task, **shared, "rows": rows, "pairs": pairs})
    if json:
        print_json({"report": str(report), "tables": tables})
        return
    for table in tables:
        columns = OTHER.get(table["task"], ROWS)
        shown = [column for column in columns if any(row.get(column) is not None for row in table["rows"])]
        title = f"{table['data']} {table['split']}, n = {table['n']} "
        title += table["task"] if table["task"] in OTHER else f"images, idf of CIDEr-D over the same {table['n']}"
        print_table(table["rows"], shown, title=title)
        if pairs := table["pairs"]:
            columns = [c for c in PAIRS if c != "verdict" or (verdicts and pairs[0]["margin"] is not None)]
            say("")
            print_table(pairs, columns, title=f"paired differences a - b of {pairs[0]['metric']}, 95 % intervals")
        say("")
    say(f"report: {report}")
