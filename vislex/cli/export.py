"""``vislex export``: a trained model, or a part of it alone, as an ordinary checkpoint of transformers or timm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vislex.cli.console import print_json, say
from vislex.cli.options import Json
from vislex.errors import ConfigError

__all__ = ["command"]

_FORMATS = ("hf", "timm", "llm", "host")


def command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A saved model or encoder, or a shipped name.")],
    to: Annotated[
        str, typer.Option("--to", help="hf (transformers) or timm: the backbone; llm; host: the whole model.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: DIR-hf, DIR-timm ...")] = None,
    json: Json = False,
) -> None:
    """Write the vision backbone, the language model or the whole of a model as a checkpoint that opens without vislex.

    \b
    vislex export runs/vilex --to hf       opens in transformers' SiglipVisionModel
    vislex export runs/vilex --to timm     opens in timm.create_model("local-dir:runs/vilex-timm", pretrained=True)
    vislex export runs/vlm --to llm        opens in AutoModelForCausalLM; the recipes take it as llm=hf:runs/vlm-llm
    vislex export runs/vlm --to host       a PaliGemma or LLaVA, if the model is one: else the reason why not
    """
    from vislex.shipped import find_model

    if to not in _FORMATS:
        raise ConfigError(f"unknown format '{to}'; allowed are {', '.join(_FORMATS)}")
    target = out if out is not None else Path(f"{folder.rstrip('/')}-{to}")
    source = str(find_model(folder) or folder)
    family = {}
    if to == "host":
        from vislex.adapters.vlm_exchange import export_to_host

        written, family["family"] = export_to_host(source, target)
    elif to == "llm":
        from vislex.adapters.vlm_exchange import export_llm

        written = export_llm(source, target)
    else:
        from vislex.exporting import export_backbone

        written = export_backbone(source, to, target)
    if json:
        print_json({"from": folder, "to": to, **family, "out": str(written)})
    else:
        say(f"written to {written}")
