"""``vislex swap``: another vision encoder for an existing vision-language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import error_console, format_value, print_json, print_table, say
from vislex.cli.options import Json, Seed
from vislex.errors import ConfigError

if TYPE_CHECKING:
    from vislex.adapters.swap_report import SwapReport

__all__ = ["command"]


def command(
    host: Annotated[str, typer.Argument(metavar="HOST", help="A model's folder or hub id; see 'vislex list hosts'.")],
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="A name of 'vislex list encoders', hf:DIR, ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the host with its new encoder.")],
    layer: Annotated[int | None, typer.Option("--layer", help="Take the encoder's tokens from this layer.")] = None,
    n_tokens: Annotated[int | None, typer.Option("--n-tokens", min=1, help="Tokens of a vilex: encoder.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights of the encoder, by --seed.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="auto (the host's own), float32 or bfloat16.")] = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Give a vision-language model of transformers another vision encoder, and save it.

    \b
    vislex swap google/paligemma2-3b-pt-224 vilex:runs/vilex --n-tokens 16 --out swapped
    vislex swap llava-hf/llava-1.5-7b-hf hf:facebook/dinov2-base --out swapped
    vislex info swapped                        which weights are live, and which have changed since
    vislex list hosts                          the families of hosts

    Weights of the tower's own architecture are loaded into it; any other encoder takes its place, before a new
    connector. Config and processor are repaired, so that a prompt has as many image tokens as the encoder gives. The
    table says what changed and what must be retrained; a pair that cannot work is refused with the reason.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out '{out}' is not empty; give a new folder, so that nothing is overwritten")
    from vislex.adapters.hosts import load_host
    from vislex.adapters.swap import swap_encoder
    from vislex.encoders.factory import create_encoder
    from vislex.hardware import resolve_dtype

    options: dict[str, Any] = {"layer": layer, "n_tokens": n_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    weights = {"seed": seed} if untrained else {"pretrained": True}
    replacement = create_encoder(encoder, **weights, **options)
    error_console.print(f"opening {host} ...", markup=False)
    model, processor = load_host(host, dtype if dtype == "auto" else resolve_dtype(dtype, "cpu"))
    result = swap_encoder(model, processor, replacement, seed=seed)
    result.save_pretrained(out)
    if json:
        print_json({"folder": str(out), **result.report.to_dict()})
    else:
        _show(result.report, out)


def _show(report: SwapReport, out: Path) -> None:
    how = {"own": "its weights in the host's own tower", "stock": "as a tower of transformers", "wrapped": "wrapped"}
    say(f"{report.encoder} in {report.host}, {how[report.kind]}: {report.image_tokens} tokens an image")
    say("")
    print_table(report.parts, ["part", "weights", "retrain", "parameters", "sha256"])
    say("")
    changes = [{**row, "before": _short(row["before"]), "after": _short(row["after"])} for row in report.changes]
    print_table(changes, ["where", "before", "after"], title="changed")
    if report.new:
        say(f"newly initialised: {', '.join(report.new)}")
    for note in report.notes:
        say(f"note: {note}")
    opens = "after 'import vislex.auto'" if report.needs_vislex else "without vislex"
    say(f"written to {out}; AutoModelForImageTextToText opens it {opens}")


def _short(value: Any, width: int = 40) -> str:
    text = format_value(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."
