"""Rows of a benchmark as a table on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_rows"]


def print_rows(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows that have the same columns; floats with one decimal, "-" where there is no value."""
    shown = Table(title=title)
    for name, value in rows[0].items() if rows else ():
        shown.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        shown.add_row(*(_cell(row.get(name)) for name in rows[0]))
    console.print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
