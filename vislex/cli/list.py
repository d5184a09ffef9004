"""``vislex list``: names of the registered parts, without loading them."""

from __future__ import annotations

from typing import Annotated

import typer

from vislex.cli.console import print_table, say
from vislex.cli.options import Json
from vislex.registry import KINDS, registry

__all__ = ["command"]


def command(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}.")] = None,
    pattern: Annotated[str, typer.Argument(metavar="[GLOB]", help="Show names that match, e.g. '*siglip*'.")] = "*",
    json: Json = False,
) -> None:
    """List the registered parts of a kind; without a kind, how many there are of each."""
    if kind is None:
        print_table([{"kind": name, "parts": len(registry(name))} for name in KINDS], ["kind", "parts"], json)
        return
    entries = registry(kind)
    names = entries.names(pattern)
    rows = [
        {"name": entry.name, "summary": entry.summary, "from": entry.origin, "target": entry.target}
        for entry in map(entries.get, names)
    ]
    if not rows and not json:
        say(f"no {kind} match '{pattern}'" if len(entries) else f"no {kind} are registered")
        return
    foreign = any(row["from"] != "vislex" for row in rows)
    print_table(rows, ["name", "summary", "from"] if foreign else ["name", "summary"], json)
