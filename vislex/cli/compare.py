"""``vislex compare``: trains what is missing, measures all, writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vislex.cli.console import error_console
from vislex.cli.options import BatchSize, Device, DType, Json

__all__ = ["command"]


def command(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Any key of the comparison, e.g. margin=0.02 seeds=3."),
    ] = None,
    encoders: Annotated[
        str | None, typer.Option("--encoders", help="Names with commas; NAME@untrained is the control of NAME.")
    ] = None,
    decoders: Annotated[str | None, typer.Option("--decoders", help="Names with commas.")] = None,
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", help="Swap the encoders into these models of transformers: folders or hub ids."),
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", help="Captioners to measure untouched: folders, shipped, hf:NAME.")
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="smoke, demo, standard (tables) or long.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Trainings of each arm.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Splits to score, with commas.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=2, help="Images of each split.")] = None,
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Smallest difference of CIDEr-D (0 to 10) that counts; gives verdicts."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Row to compare all with, e.g. 'siglip-tiny + prefix'.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with the same keys.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of results.json, report.html and models.")] = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    dtype: DType = "float32",
    json: Json = False,
) -> None:
    """Train what is missing, measure all, write the report; finished runs are skipped.

    \b
    vislex compare --encoders siglip-tiny,siglip-tiny@untrained --decoders cross_attention,prefix --out runs/first
    vislex compare --encoders timm:vit_tiny_patch16_224,siglip-tiny --decoders prefix --budget demo --seeds 3
    vislex compare --config mine.yaml margin=0.02          a margin, written before the runs, gives verdicts
    vislex compare --models runs/a,hf:Salesforce/blip-image-captioning-base          no training at all
    vislex compare --hosts runs/host --encoders siglip-tiny,hf:facebook/dinov2-small,clip-b16@untrained --out runs/swaps

    With --hosts, every encoder takes the place of each host's own, and connectors are trained by the recipe realign; so
    is the connector of the host as it is: the control that the others are compared with, in captions and in answers.
    Keys of that recipe may be given too (lr=1e-3 parts.llm.mode=lora); those that the comparison has as well, such as
    batch_size, by train=[batch_size=16].

    Run it again with the same --out to go on where it stopped, or with more names to widen the table.
    """
    from vislex.benchmarks.show import show, show_hosts
    from vislex.config import load_config, read_yaml

    given: dict[str, Any] = {
        "encoders": _names(encoders),
        "decoders": _names(decoders),
        "hosts": _names(hosts),
        "models": _names(models),
        "budget": budget,
        "seeds": seeds,
        "splits": _names(split),
        "size": size,
        "margin": margin,
        "baseline": f'"{baseline}"' if baseline else None,
        "batch_size": batch_size if batch_size != 64 else None,
        "device": device if device != "auto" else None,
        "dtype": dtype if dtype != "float32" else None,
        "out": out,
    }
    written = [f"{key}={value}" for key, value in given.items() if value is not None]
    words = [*written, *(overrides or [])]
    if any(word.startswith("hosts=") for word in words) or (config is not None and "hosts" in read_yaml(config)):
        from vislex.benchmarks.compare_hosts import run as run_hosts
        from vislex.benchmarks.host_comparison import load_host_comparison

        show_hosts(run_hosts(load_host_comparison(config, words), log=_log), json=json)
        return
    from vislex.benchmarks.compare import ComparisonConfig, run

    show(run(load_config(ComparisonConfig, config, words), log=_log), json=json)


def _log(line: str) -> None:
    error_console.print(line, markup=False)


def _names(text: str | None) -> str | None:
    """A YAML list of a comma-separated one."""
    if text is None:
        return None
    return "[" + ", ".join(f'"{name.strip()}"' for name in text.split(",") if name.strip()) + "]"
