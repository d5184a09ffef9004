"""JSON Lines: strict reading that names file and line, and writing that resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

from vislex.errors import DataError

__all__ = ["JsonlWriter", "iterate_jsonl", "parse_json", "read_json", "read_jsonl"]

_BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 64 * 1024 * 1024


def read_jsonl(path: str | Path, *, key: str | None = None, required: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Reads a whole JSONL file; see ``iterate_jsonl``."""
    return list(iterate_jsonl(path, key=key, required=required))


def iterate_jsonl(
    path: str | Path, *, key: str | None = None, required: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Reads a JSONL file line by line; blank lines and a byte order mark at the start are passed over.

    Args:
        path: The file, UTF-8.
        key: Name of the field that must be there and differ from line to line.
        required: Further fields that every line must have.

    Yields:
        One object a line.

    Raises:
        DataError: Naming file and line: bad UTF-8, no JSON object, NaN or Infinity (which JSON has not), a repeated
            field, a missing field, an id seen before, a last line that was cut off.
    """
    file = Path(path)
    seen: dict[Any, int] = {}
    for number, line in _lines(file):
        where = f"{file}:{number}"
        try:
            row = parse_json(line, where)
        except DataError as error:
            if line.endswith(b"\n"):
                raise
            raise DataError(f"{error}; it is the last line and has no end: was the file cut off?") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {_kind(row)}")
        if missing := [name for name in ([key] if key else []) + list(required) if name not in row]:
            raise DataError(f"{where}: no field {', '.join(map(repr, missing))}; it has {', '.join(map(repr, row))}")
        if key:
            name = _identity(row[key])
            if name in seen:
                raise DataError(f"{where}: {key} {row[key]!r} is already on line {seen[name]}; ids must differ")
            seen[name] = number
        yield row


def read_json(path: str | Path) -> Any:
    """Reads one JSON document as strictly as ``iterate_jsonl`` reads a line.

    Raises:
        DataError: If the file is missing, not UTF-8 or not JSON.
    """
    file = Path(path)
    return parse_json(_open(file).read(), str(file))


def parse_json(data: bytes, where: str) -> Any:
    """Parses UTF-8 JSON, refusing NaN, infinities and repeated fields.

    Args:
        data: The text, with or without a byte order mark.
        where: What an error names, e.g. "rows.jsonl:3".

    Raises:
        DataError: If it does not parse.
    """

    def refuse(literal: str) -> NoReturn:
        raise DataError(f"{where}: {literal} is not JSON; write null instead")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            raise DataError(f"{where}: field {next(name for name in names if names.count(name) > 1)!r} is there twice")
        return fields

    try:
        text = data.removeprefix(_BOM).decode("utf-8")
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        spot = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise DataError(f"{where}: not JSON at {spot}: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply") from error
    except ValueError as error:  # an integer of more than 4,300 digits
        raise DataError(f"{where}: {error}") from error


class JsonlWriter:
    """Appends rows to a JSONL file and resumes: rows that are already there need not be computed again.

    Opening drops a last line that was cut off (by a crash or a full disk) and collects the ids that are done. Each
    row is flushed, so that what was written survives a kill.

    Example::

        with JsonlWriter("captions.jsonl", key="id") as writer:
            for item in items:
                if item.id not in writer:
                    writer.write({"id": item.id, "caption": ...})

    Attributes:
        path: The file.
        key: Field that identifies a row.
        dropped: Whether opening dropped a torn last line.
    """

    def __init__(self, path: str | Path, key: str = "id", *, resume: bool = True) -> None:
        """Opens the file, making it and its folder where they are not there.

        Args:
            path: The file.
            key: Field that every row has and that differs from row to row.
            resume: Whether to keep what is there; False starts an empty file.

        Raises:
            DataError: If a line other than a torn last one is damaged, or two rows share an id.
        """
        self.path = Path(path)
        self.key = key
        self.dropped = False
        self._done: dict[Any, Any] = {}
        if self.path.is_dir():
            raise DataError(f"'{self.path}' is a folder; name a file to write to")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.path.is_file():
            self._recover()
        self._stream: BinaryIO = self.path.open("ab" if resume else "wb")

    @property
    def done(self) -> list[Any]:
        """Ids of the rows in the file, in its order."""
        return list(self._done.values())

    def __contains__(self, identity: object) -> bool:
        return _identity(identity) in self._done

    def __len__(self) -> int:
        return len(self._done)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row and flushes it.

        Raises:
            DataError: If the row has no id, an id that is done, or a value that JSON has not (NaN).
        """
        if self.key not in row:
            raise DataError(f"a row for {self.path} has no field {self.key!r}; it has {', '.join(map(repr, row))}")
        identity = _identity(row[self.key])
        if identity in self._done:
            raise DataError(f"{self.path}: {self.key} {row[self.key]!r} is already written; ids must differ")
        try:
            line = json.dumps(dict(row), ensure_ascii=False, allow_nan=False)
            encoded = line.encode("utf-8")
        except UnicodeEncodeError:  # a file name that is not UTF-8, held as lone surrogates
            encoded = json.dumps(dict(row), ensure_ascii=True, allow_nan=False).encode("ascii")
        except (TypeError, ValueError) as error:
            raise DataError(f"row {row[self.key]!r} for {self.path} cannot be written as JSON: {error}") from error
        self._stream.write(encoded + b"\n")
        self._stream.flush()
        self._done[identity] = row[self.key]

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> None:
        whole = _end_of_last_line(self.path)
        if whole < self.path.stat().st_size:
            with self.path.open("r+b") as stream:
                stream.seek(whole)
                rest = stream.read()
                stream.seek(whole)
                if _is_object(rest):  # complete but for its newline: keep it
                    stream.seek(0, 2)
                    stream.write(b"\n")
                else:
                    stream.truncate()
                    self.dropped = True
        self._done = {_identity(row[self.key]): row[self.key] for row in iterate_jsonl(self.path, key=self.key)}


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with _open(file) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{file}:{number}: a line of more than {MAX_LINE_BYTES:,} bytes; is this JSONL?")
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield number, line


def _open(file: Path) -> BinaryIO:
    try:
        if not file.is_dir():
            return file.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"no such file: '{file}'") from error
    except OSError as error:
        raise DataError(f"cannot read '{file}': {error.strerror}") from error
    except ValueError as error:  # a NUL or a lone surrogate in its name
        raise DataError(f"{str(file)!r} is no file name: {error}") from error
    raise DataError(f"'{file}' is a folder, not a file")


def _end_of_last_line(file: Path) -> int:
    """Offset behind the last newline, searched from the end."""
    with file.open("rb") as stream:
        end = stream.seek(0, 2)
        while end > 0:
            start = max(0, end - 65536)
            stream.seek(start)
            at = stream.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(parse_json(data, "the last line"), dict)
    except DataError:
        return False


def _identity(value: Any) -> Any:
    """Ids compare by type and value: 1, "1", True and 1.0 are four ids."""
    return (type(value).__name__, value if isinstance(value, str | int | float | bool | None) else json.dumps(value))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), "null")
