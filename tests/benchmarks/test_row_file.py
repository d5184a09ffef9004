from __future__ import annotations

from pathlib import Path

import pytest

from vislex.benchmarks.row_file import RowFile
from vislex.errors import DataError


def test_a_row_is_made_once(tmp_path: Path) -> None:
    made = []

    def make(value: int) -> dict[str, int]:
        made.append(value)
        return {"value": value}

    file = RowFile(tmp_path / "folder" / "rows.json", "demo", {"command": "first"})
    assert file.row({"n": 1}, lambda: make(10))["value"] == 10
    again = RowFile(file.path, "demo", {"command": "second"})
    assert again.row({"n": 1}, lambda: make(11))["value"] == 10
    assert again.row({"n": 2}, lambda: make(20))["provenance"] == 1
    assert made == [10, 20]
    file.conclude(verdict="holds")
    content = again.load()
    assert [row["n"] for row in content["rows"]] == [1, 2]
    assert [entry["command"] for entry in content["provenance"]] == ["first", "second"]
    assert content["verdict"] == "holds"
    lines = [line for line in file.path.read_text(encoding="utf-8").splitlines() if '"n": ' in line]
    assert len(lines) == 2  # one for each row


@pytest.mark.parametrize("text", ["{", '{"format": "vislex-rows@1", "benchmark": "other"}', "[]"])
def test_another_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match="give another --out"):
        RowFile(path, "demo", {}).row({"n": 1}, dict)
    assert path.read_text() == text
