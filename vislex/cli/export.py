"""``vislex export``: the backbone of a trained model as an ordinary checkpoint of transformers or timm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vislex.cli.console import print_json, say
from vislex.cli.options import Json

__all__ = ["command"]


def command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A ViLex model, a captioner or an encoder.")],
    to: Annotated[str, typer.Option("--to", help="hf (transformers) or timm.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: DIR-hf or DIR-timm.")] = None,
    json: Json = False,
) -> None:
    """Write the vision backbone as a checkpoint that opens without vislex.

    \b
    vislex export runs/vilex --to hf       opens in transformers' SiglipVisionModel
    vislex export runs/vilex --to timm     opens in timm.create_model("local-dir:runs/vilex-timm", pretrained=True)
    """
    from vislex.exporting import export_backbone

    target = out if out is not None else Path(f"{folder.rstrip('/')}-{to}")
    written = export_backbone(folder, to, target)
    if json:
        print_json({"from": folder, "to": to, "out": str(written)})
    else:
        say(f"written to {written}")
