"""Strict JSONL reading and resumable writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vislex.data.jsonl import JsonlWriter, read_json, read_jsonl
from vislex.errors import DataError


def test_reads_rows_with_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"id": 1, "text": "\xc3\xa9"}\r\n\n{"id": "1"}')
    assert read_jsonl(file, key="id") == [{"id": 1, "text": "é"}, {"id": "1"}]


@pytest.mark.parametrize(
    ("data", "line", "expected"),
    [
        (b'{"id": 1}\n{"id": "\xff"}\n', 2, "not UTF-8 at byte 9"),
        (b'{"id": 1}\n{"id": 2, \n{"id": 3}\n', 2, "not JSON at"),
        (b'{"id": 1}\n\n{"id": 2, "te', 3, "was the file cut off?"),
        (b'{"id": 1}\n{"id": 1}\n', 2, "already on line 1"),
        (b'{"id": 1, "x": NaN}\n', 1, "NaN is not JSON"),
        (b'{"id": 1, "x": [-Infinity]}\n', 1, "-Infinity is not JSON"),
        (b'{"id": 1}\n[1, 2]\n', 2, "expected a JSON object, got a list"),
        (b'{"name": 1}\n', 1, "no field 'id'"),
        (b'{"id": 1, "id": 2}\n', 1, "field 'id' is there twice"),
        (b'{"id": 1}\n{"id": 2}{"id": 3}\n', 2, "Extra data"),
        (b'{"id": ' + b"[" * 200_000 + b"}\n", 1, ""),
        (b'{"id": ' + b"1" * 5_000 + b"}\n", 1, "digits"),
        (b'{"id": 1}\x00\n', 1, "not JSON"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, data: bytes, line: int, expected: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_jsonl(file, key="id")
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_jsonl(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_jsonl(tmp_path)
    with pytest.raises(DataError, match="is a folder"):
        JsonlWriter(tmp_path)


def test_read_json_refuses_nan(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n "a": 1,\n "b": }')
    with pytest.raises(DataError, match="line 3 column 7"):
        read_json(tmp_path / "a.json")


def test_writer_resumes_after_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "out.jsonl"
    with JsonlWriter(file) as writer:
        writer.write({"id": "a", "caption": "ein Bär"})
        writer.write({"id": 1, "caption": "x"})
    with file.open("ab") as stream:
        stream.write(b'{"id": "b", "capt')
    with JsonlWriter(file) as writer:
        assert writer.dropped
        assert ("a" in writer, 1 in writer, "1" in writer, "b" in writer) == (True, True, False, False)
        writer.write({"id": "b", "caption": "y"})
        with pytest.raises(DataError, match="already written"):
            writer.write({"id": "b"})
        with pytest.raises(DataError, match="no field 'id'"):
            writer.write({"name": "c"})
        with pytest.raises(DataError, match="cannot be written"):
            writer.write({"id": "c", "score": float("nan")})
    assert [row["id"] for row in read_jsonl(file, key="id")] == ["a", 1, "b"]
    assert "Bär" in file.read_text(encoding="utf-8")


def test_writer_keeps_a_whole_last_line_without_newline(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b'{"id": 1}\n{"id": 2}')
    with JsonlWriter(file) as writer:
        assert not writer.dropped
        writer.write({"id": 3})
    assert [row["id"] for row in read_jsonl(file)] == [1, 2, 3]


def test_writer_refuses_a_file_that_is_damaged_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b'{"id": 1}\n{"id": \n{"id": 3}\n')
    with pytest.raises(DataError, match=r"out\.jsonl:2"):
        JsonlWriter(file)
    JsonlWriter(file, resume=False).close()
    assert file.read_bytes() == b""


def test_file_names_that_are_not_utf8_are_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    with JsonlWriter(tmp_path / "out.jsonl") as writer:
        writer.write({"id": name})
    with JsonlWriter(tmp_path / "out.jsonl") as writer:
        assert name in writer


def test_rows_survive_a_kill(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import itertools, sys
        from vislex.data.jsonl import JsonlWriter
        with JsonlWriter(sys.argv[1]) as writer:
            for i in itertools.count():
                writer.write({"id": i})
                if i == 50:
                    print("ready", flush=True)
    """)
    file = tmp_path / "out.jsonl"
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with JsonlWriter(file) as writer:
        assert len(writer) > 50
        assert writer.done == list(range(len(writer)))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(_values, max_size=5), cut=st.integers(0, 400))
def test_whatever_is_cut_off_the_rest_resumes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], cut: int
) -> None:
    file = tmp_path_factory.mktemp("jsonl") / "out.jsonl"
    written = [{"id": i, "value": value} for i, value in enumerate(rows)]
    with JsonlWriter(file) as writer:
        for row in written:
            writer.write(row)
    data = file.read_bytes()
    file.write_bytes(data[: max(0, len(data) - cut)])
    with JsonlWriter(file) as writer:
        for row in written:
            if row["id"] not in writer:
                writer.write(row)
    assert read_jsonl(file, key="id") == written
