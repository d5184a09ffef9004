"""``vislex merge``: folds adapters into the model they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vislex.cli.console import print_json, say
from vislex.cli.options import Json
from vislex.errors import ConfigError

__all__ = ["command"]


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with adapter_config.json.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the merged model.")],
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Save every part by value, also those that are named by reference.")
    ] = False,
    json: Json = False,
) -> None:
    """Fold adapters (LoRA, DoRA, ...) into their vision-language model and save it whole.

    \b
    vislex train sft model=runs/align parts.llm.mode=lora adapters=keep output_dir=runs/adapters
    vislex merge runs/adapters --out runs/vlm
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out '{out}' is not empty; choose another folder")
    from vislex.adapters.merging import merge_adapters

    model = merge_adapters(folder)
    model.save_pretrained(out, standalone=standalone)
    if json:
        print_json({"folder": str(out), "parts": model.config.parts})
        return
    say(str(out))
