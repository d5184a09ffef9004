"""How long the light commands take: a fresh process each, minimum, median and maximum over several runs.

    python -m vislex.benchmarks.import_time [--runs 15] [--json] [--out benchmarks/results/import_time.json]

The aim is 0.3 s for each. A bare interpreter is measured beside them: it is the floor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vislex.cli.console import print_json, print_table, say
from vislex.errors import VislexError
from vislex.provenance import collect

__all__ = ["COMMANDS", "main", "measure"]

AIM_SECONDS = 0.3
COMMANDS: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "import vislex": ["-c", "import vislex"],
    "vislex --help": ["-m", "vislex", "--help"],
    "vislex list encoders": ["-m", "vislex", "list", "encoders"],
}


def measure(runs: int = 15) -> list[dict[str, Any]]:
    """Times every command; the runs of all are interleaved, so that a busy moment hits them alike.

    Args:
        runs: Timed runs of each, after one that is not timed.

    Returns:
        Rows with ``command``, ``median_seconds``, ``min_seconds``, ``max_seconds``, ``runs``, ``aim_seconds``.

    Raises:
        VislexError: If a command fails.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(runs + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
            elapsed = time.perf_counter() - start
            if done.returncode != 0:
                raise VislexError(f"'{name}' failed with exit code {done.returncode}: {done.stderr.strip()}")
            if run:
                seconds[name].append(elapsed)
    return [
        {
            "command": name,
            "median_seconds": statistics.median(values),
            "min_seconds": min(values),
            "max_seconds": max(values),
            "runs": runs,
            "aim_seconds": AIM_SECONDS,
        }
        for name, values in seconds.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and writes the result file."""
    parser = argparse.ArgumentParser(prog="python -m vislex.benchmarks.import_time", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each command")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=None, help="also write a result file")
    given = parser.parse_args(arguments)
    rows = measure(max(1, given.runs))
    if given.json:
        print_json(rows)
    else:
        print_table(rows, ["command", "median_seconds", "min_seconds", "max_seconds", "runs"])
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"benchmark": "import_time", "provenance": collect(), "rows": rows}
        given.out.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")
        if not given.json:
            say(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
