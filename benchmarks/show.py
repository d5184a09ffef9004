"""The tables of a finished comparison on the terminal, or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vislex.benchmarks.host_tables import host_pairs, host_rows, records_together, swap_rows
from vislex.benchmarks.results import read_results
from vislex.benchmarks.summary import all_pairs, floor_pairs, summarise
from vislex.cli.console import print_json, print_table, say

__all__ = ["show", "show_hosts"]

ROWS = ["row", "origin", "seeds", "CIDEr-D", "BLEU-4", "ROUGE-L", "scene-F1", "ms a caption", "evaluations"]
OTHER = {
    "vqa": ["row", "origin", "accuracy", "answers a second"],
    "segmentation": ["row", "origin", "mIoU", "cIoU", "P@0.5", "invalid", "answers a second"],
}
HOST_ROWS = ["row", "origin", "seeds", "image tokens", "CIDEr-D", "ROUGE-L", "scene-F1", "ms a caption"]
SWAPS = ["swap", "kind", "image tokens", "retrain connector", "retrain encoder", "retrain llm", "notes"]
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


def show_hosts(report: Path, *, json: bool = False) -> None:
    """Prints the tables of a finished comparison of hosts, what each swap left to retrain, and the report's path."""
    results = read_results([report.parent])
    tables: list[dict[str, Any]] = []
    for records in records_together(results):
        rows, pairs = host_rows(results, records), host_pairs(results, records)
        first = records[0]
        tables.append({"data": first.name, "split": first.split, "n": len(first.ids), "rows": rows, "pairs": pairs})
    swaps = swap_rows(results)
    if json:
        print_json({"report": str(report), "tables": tables, "swaps": swaps})
        return
    for table in tables:
        kinds = [name for name in dict.fromkeys(key for row in table["rows"] for key in row) if "accuracy" in name]
        title = f"{table['data']} {table['split']}: {table['n']} images captioned and {table['n']} questions"
        print_table(table["rows"], [*HOST_ROWS, *(name for name in kinds if not name.endswith(" sd"))], title=title)
        say("")
        columns = [c for c in ("metric", *PAIRS) if c != "verdict" or any(p["verdict"] for p in table["pairs"])]
        print_table(table["pairs"], columns, title="paired differences a - b from the control, 95 % intervals")
        say("")
    print_table(swaps, SWAPS, title="what each swap left to retrain")
    say("")
    say(f"report: {report}")
