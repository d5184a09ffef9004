"""``vislex plan``: what a training would need and take, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import console, error_console, print_json, say
from vislex.cli.options import Json
from vislex.cli.train import find_config
from vislex.errors import ConfigError, did_you_mean
from vislex.registry import registry

if TYPE_CHECKING:
    from vislex.training.calibration import Rates
    from vislex.training.plan import Plan
    from vislex.training.recipe import Recipe
    from vislex.training.settings import TrainingSettings

__all__ = ["command"]

HERE = "here"


def command(
    config: Annotated[str, typer.Argument(help="YAML file, the name of a packaged one, or of a recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values over those of the file.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Of a file whose name does not begin with that of its recipe.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Accelerators.")] = 1,
    device: Annotated[
        str, typer.Option("--device", help="A row of the device table (h100, a100, l4, ...), or 'here'.")
    ] = HERE,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="US dollars an hour and accelerator, for the table's.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", metavar="CONFIG", help="Measure this machine on three real steps of CONFIG first."),
    ] = None,
    json: Json = False,
) -> None:
    """Tell what a training would need and take, without running it.

    The model is built as shapes alone and one step of it is followed: parameters of each part, memory by kind on each
    engine (DDP, FSDP2, DeepSpeed ZeRO 1 to 3), operations (a frozen part that no gradient passes costs its forward
    only), time and cost, and the largest batch that fits. Neither weights nor data are needed; what had to be assumed
    without them is said.

    Weights, gradients and optimizer are exact. Time is a range from the table's peak speeds; on this machine it is one
    number after --calibrate, which runs three steps of another configuration and is remembered. For a training of a
    folder that is not there yet (sft of an aligned model), the file's keys say what it is made of.

    \b
    vislex plan vilex_pretrain_sd21_paper --gpus 64 --device h100
    vislex plan sft_eight_gpu --gpus 8 --device a100 batch_size=32
    vislex plan caption_ladic_embedded --calibrate siglip_pretrain_embedded
    vislex plan my.yaml --recipe caption --json
    """
    from vislex.device_table import get_device
    from vislex.training.plan import make_plans

    name, loaded, settings = _open(config, recipe, overrides or [])
    if device != HERE and calibrate is not None:
        raise ConfigError(f"--calibrate measures this machine, and --device {device} is another; leave one of them out")
    table = None if device == HERE else get_device(device)
    with error_console.status("measuring this machine") if calibrate else error_console.status("reading"):
        rates = None if table is not None else _rates(calibrate)
    with error_console.status("following a step of shapes"):
        plans = list(make_plans(name, loaded, settings, gpus=gpus, device=table, rates=rates, price=price))
    if json:
        print_json([plan.to_dict() for plan in plans])
        return
    for plan in plans:
        _show(plan, rates)


def _open(config: str, recipe: str | None, overrides: list[str]) -> tuple[str, Recipe, TrainingSettings]:
    from vislex.config import load_config

    names = registry("recipes").names()
    stem = Path(config).stem
    fitting = [name for name in names if stem == name or stem.startswith(name + "_")]
    name = recipe or max(fitting, key=len, default=None)
    if name is None:
        raise ConfigError(
            f"which recipe '{config}' is of cannot be told{did_you_mean(stem, names)} Name it by --recipe"
        )
    loaded: Recipe = registry("recipes").get(name).load()
    if loaded.sketch is None:
        raise ConfigError(f"the recipe '{name}' does not say what it would train, so it cannot be planned")
    file = None if config == name else find_config(config)
    return name, loaded, load_config(loaded.config, file, overrides)


def _rates(calibrate: str | None) -> Rates | None:
    """Rates of this machine: measured now, or remembered."""
    import torch

    from vislex.cache import cache_dir
    from vislex.hardware import resolve_device
    from vislex.training.calibration import calibrate as measure
    from vislex.training.calibration import machine_name, read_rates, write_rates
    from vislex.training.settings import uses_bf16
    from vislex.training.sketch import Stage

    device = resolve_device("auto")
    file = cache_dir() / "plan" / f"{machine_name(device).replace(' ', '-')}.json"
    if calibrate is None:
        return read_rates(file) if file.is_file() else None
    _, loaded, settings = _open(calibrate, None, [])
    assert loaded.sketch is not None
    with torch.device(device):
        sketch = list(loaded.sketch(settings))[-1]
        stage = Stage(sketch, bf16=uses_bf16(settings))
    rates = measure(stage, settings.batch_size, device, measured_on=calibrate)
    write_rates(file, rates)
    return rates


def _show(plan: Plan, rates: Rates | None) -> None:
    from rich.table import Table

    table = Table(title=f"{plan.title}: {plan.gpus} x {plan.device}, {plan.dtype}", title_justify="left")
    table.add_column("part", overflow="fold")  # in a narrow terminal: numbers are never cut
    table.add_column("mode", no_wrap=True)
    for column in ("parameters", "trainable", "forward", "backward"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in plan.parts:
        counts = (f"{row.parameters:,}", f"{row.trainable:,}", _operations(row.forward), _operations(row.backward))
        table.add_row(row.part, row.mode, *counts)
    sums = [sum(getattr(row, name) for row in plan.parts) for name in ("forward", "backward")]
    table.add_section()
    table.add_row("step", "", "", "", *map(_operations, sums))
    console.print(table)

    engines = Table("memory (GB)", title=f"on each, for a batch of {plan.batch_size}", title_justify="left")
    for engine in plan.memory:
        engines.add_column(engine, justify="right")
    for kind in next(iter(plan.memory.values())).__dataclass_fields__:
        if not any(getattr(own, kind) for own in plan.memory.values()):
            continue
        engines.add_row(kind, *(f"{getattr(own, kind) / 2**30:,.2f}" for own in plan.memory.values()))
    engines.add_section()
    engines.add_row("total", *(f"{own.total / 2**30:,.2f}" for own in plan.memory.values()))
    if plan.capacity is not None:
        engines.add_row("largest batch", *(str(plan.largest_batch[engine]) for engine in plan.memory))
    console.print(engines)
    for line in _lines(plan, rates):
        say(line)


def _lines(plan: Plan, rates: Rates | None) -> list[str]:
    room = "" if plan.capacity is None else f" of {plan.capacity / 2**30:,.0f} GB"
    fits = f"the batch fits into the memory{room} with {plan.engine}" if plan.engine else (
        f"the batch does not fit into the memory{room}; take fewer samples, more accelerators or gradient_accumulation"
    )  # fmt: skip
    lines = [fits]
    if plan.seconds is None:
        lines.append("time: not known for this machine; give --device, or --calibrate CONFIG to measure it")
    else:
        assert plan.hours is not None
        samples = plan.batch_size * plan.accumulation * plan.gpus
        ends = sorted(samples / own for own in plan.seconds)
        lines.append(
            f"time: {_span(plan.seconds, '{:.3g}')} s a step, {_span(ends, '{:,.3g}')} samples/s, "
            f"{_span(plan.hours, '{:,.3g}')} hours for {plan.steps:,} steps"
            + (f" (measured on {rates.measured_on})" if rates is not None else "")
        )
    if plan.dollars is not None:
        lines.append(f"cost: {_span(plan.dollars, '{:,.0f}')} US dollars")
    if plan.mfu is not None:
        lines.append(f"utilisation: {_span(plan.mfu, '{:.0%}')} of the peak")
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _span(ends: Any, form: str) -> str:
    low, high = (form.format(end) for end in ends)
    return low if low == high else f"{low} to {high}"


def _operations(count: int) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e6:,.1f} M" if count else "-"
