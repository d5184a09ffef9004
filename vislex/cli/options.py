"""Options that several verbs share: ``def command(..., device: Device = "auto", json: Json = False)``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["BatchSize", "DType", "Device", "Json", "Seed"]

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
DType = Annotated[
    str,
    typer.Option("--dtype", help="auto (bfloat16 where the hardware has it fast), float32, bfloat16 or float16."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images a batch.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn at random.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
