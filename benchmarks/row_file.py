"""Result files of benchmarks that are tables: rows are appended as they are finished, and found again by their key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vislex.benchmarks.results import content_key, locked, replace_text
from vislex.errors import DataError

__all__ = ["RowFile"]

FORMAT = "vislex-rows@1"


class RowFile:
    """A table on disk; an interrupted benchmark goes on where it stopped.

    Args:
        path: JSON file.
        benchmark: Name of the benchmark that it belongs to.
        provenance: ``vislex.provenance.collect`` of this process; each row says which process made it.
    """

    def __init__(self, path: Path, benchmark: str, provenance: dict[str, Any]) -> None:
        self.path, self.benchmark, self.provenance = path, benchmark, provenance
        self._number: int | None = None

    def load(self) -> dict[str, Any]:
        """The content, ``{"format", "benchmark", "provenance": [...], "rows": [...]}`` and further values.

        Raises:
            DataError: If the file belongs to something else.
        """
        if not self.path.exists():
            return {"format": FORMAT, "benchmark": self.benchmark, "provenance": [], "rows": []}
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            found = content.get("format"), content.get("benchmark")
        except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} is no result file: {error}; move it away, or give another --out") from error
        if found != (FORMAT, self.benchmark):
            raise DataError(f"{self.path} holds {found}, not {(FORMAT, self.benchmark)}; give another --out")
        return content

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.load()["rows"])

    def row(self, identity: Mapping[str, Any], make: Callable[[], Mapping[str, Any] | None]) -> dict[str, Any] | None:
        """The row of ``identity``: from the file, or made and appended.

        Args:
            identity: What determines the row, plain JSON values; they become a part of it.
            make: Gives the measured values, or None for no row.
        """
        key = content_key(identity)
        for row in self.rows:
            if row["key"] == key:
                return row
        values = make()
        if values is None:
            return None
        row = {"key": key, **identity, **values}
        with locked(self.path):
            content = self.load()
            if self._number is None:
                self._number = len(content["provenance"])
                content["provenance"].append(self.provenance)
            row["provenance"] = self._number
            content["rows"].append(row)
            replace_text(self.path, _text(content))
        return row

    def conclude(self, **values: Any) -> None:
        """Writes what follows from the rows (crossing points, verdicts) beside them."""
        with locked(self.path):
            replace_text(self.path, _text({**self.load(), **values}))


def _text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each row, so that a difference of two files is one of rows."""
    fields = []
    for name, value in content.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
        fields.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"
