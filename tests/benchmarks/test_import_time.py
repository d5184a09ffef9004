"""The benchmark of the light commands measures them and writes its result with provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vislex.benchmarks.import_time import COMMANDS, main


def test_rows_and_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "import_time.json"
    assert main(["--runs", "1", "--json", "--out", str(out)]) == 0
    rows = {row["command"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(COMMANDS)
    assert all(0 < row["min_seconds"] <= row["median_seconds"] <= row["max_seconds"] for row in rows.values())
    # no aim is asserted: the machine may be busy; but vislex's own import is light beside the interpreter's
    assert rows["import vislex"]["min_seconds"] < 5
    written = json.loads(out.read_text())
    assert written["provenance"]["vislex"]
    assert written["rows"] == list(rows.values())
