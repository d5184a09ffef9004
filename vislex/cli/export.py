"""``vislex export``: a trained model, or its backbone alone, as an ordinary checkpoint of transformers or timm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vislex.cli.console import print_json, say
from vislex.cli.options import Json

__all__ = ["command"]


def command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A saved model or encoder, or a shipped name.")],
    to: Annotated[str, typer.Option("--to", help="hf (transformers) or timm: the backbone; host: the whole model.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: DIR-hf, DIR-timm ...")] = None,
    json: Json = False,
) -> None:
    """Write the vision backbone, or a vision-language model as a whole, as a checkpoint that opens without vislex.

    \b
    vislex export runs/vilex --to hf       opens in transformers' SiglipVisionModel
    vislex export runs/vilex --to timm     opens in timm.create_model("local-dir:runs/vilex-timm", pretrained=True)
    vislex export runs/vlm --to host       a PaliGemma or LLaVA, if the model is one: else the reason why not
    """
    from vislex.shipped import find_model

    target = out if out is not None else Path(f"{folder.rstrip('/')}-{to}")
    source = str(find_model(folder) or folder)
    family = {}
    if to == "host":
        from vislex.adapters.vlm_exchange import export_to_host

        written, family["family"] = export_to_host(source, target)
    else:
        from vislex.exporting import export_backbone

        written = export_backbone(source, to, target)
    if json:
        print_json({"from": folder, "to": to, **family, "out": str(written)})
    else:
        say(f"written to {written}")
