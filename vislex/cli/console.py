"""What the verbs write: lines, tables and errors. Rich is imported only where something is drawn on a terminal."""

from __future__ import annotations

import json as json_module
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    console: Console
    error_console: Console

__all__ = ["console", "error_console", "format_value", "print_error", "print_json", "print_table", "say"]


def __getattr__(name: str) -> Any:
    """``console`` (stdout) and ``error_console`` (stderr: progress, notes), made when first asked for."""
    if name not in ("console", "error_console"):
        raise AttributeError(f"module 'vislex.cli.console' has no attribute '{name}'")
    from rich.console import Console

    made = Console(stderr=name == "error_console", highlight=False, soft_wrap=True)
    globals()[name] = made
    return made


def say(line: str) -> None:
    """Writes one line to stdout as it stands (no markup)."""
    sys.stdout.write(f"{line}\n")


def print_error(message: str) -> None:
    """Writes ``error: message`` as one line to stderr."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """Writes JSON to stdout; NaN and infinity, which JSON has not, become null."""
    say(json_module.dumps(_finite(value), indent=2, ensure_ascii=False, default=str, allow_nan=False))


def print_table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], json: bool = False, *, title: str | None = None
) -> None:
    """Writes a table: JSON, a drawn table on a terminal, aligned columns in a pipe.

    Args:
        rows: One mapping a row; a missing key is an empty cell. JSON gets the whole mapping, with keys that are not
            in ``columns``.
        columns: Keys in the order shown; they are the headers.
        json: Whether to write a JSON list instead.
        title: A line above the table.
    """
    listed = [dict(row) for row in rows]
    if json:
        print_json(listed)
        return
    cells = [[format_value(row.get(column)) for column in columns] for row in listed]
    if sys.stdout.isatty():
        _draw(cells, columns, listed, title)
        return
    if title:
        say(title)
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def format_value(value: Any) -> str:
    """A cell: nothing for None, four significant digits for a float."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _draw(cells: list[list[str]], columns: Sequence[str], rows: list[dict[str, Any]], title: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console(highlight=False).print(table)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
