"""Options that several verbs share: ``def command(..., device: Device = "auto", json: Json = False)``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["BatchSize", "DType", "Device", "GenerationOptions", "Json", "NTokens", "NumBeams", "Seed", "VlmFolder"]

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
DType = Annotated[
    str,
    typer.Option("--dtype", help="auto (bfloat16 where the hardware has it fast), float32, bfloat16 or float16."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images a batch.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn at random.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
VlmFolder = Annotated[
    str, typer.Option("--model", "-m", help="A model's folder, a folder of adapters, or a shipped model's name.")
]
NTokens = Annotated[
    int | None, typer.Option("--n-tokens", min=1, help="Tokens an image, for connectors with a budget.")
]
NumBeams = Annotated[int, typer.Option("--num-beams", min=1, help="Beams; 1 is greedy.")]
GenerationOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="key=value of transformers' GenerationConfig, e.g. do_sample=true. Repeatable."),
]
