"""Tables for people, pipes and programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from vislex.cli.console import print_error, print_json, print_table

ROWS = [{"name": "a[bold]", "score": 0.123456, "count": 12345}, {"name": "b", "score": float("nan"), "extra": 1}]


def test_plain_columns_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["name", "score", "count"], title="Scores")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Scores", "name     score   count", "a[bold]  0.1235  12,345", "b        n/a"]


def test_json_has_every_field_and_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["name"], json=True)
    assert json.loads(capsys.readouterr().out) == [ROWS[0], {"name": "b", "score": None, "extra": 1}]
    print_json({"a": (1, float("inf")), 2: "é"})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None], "2": "é"}


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("two\n  lines")
    assert capsys.readouterr().err == "error: two lines\n"


def test_a_terminal_gets_a_drawn_table() -> None:
    code = "from vislex.cli.console import print_table\nprint_table([{'name': 'a[bold]', 'n': 3}], ['name', 'n'])"
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=follower) as process:
        os.close(follower)
        process.wait()
    shown = os.read(leader, 4096).decode()
    os.close(leader)
    assert "a[bold]" in shown
    assert "\x1b[" in shown or "name" in shown
