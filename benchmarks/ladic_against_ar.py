"""Is LaDiC as good as an autoregressive decoder on the same frozen features, of the same size?

Trains LaDiC, cross-attention, prefix and masked decoders with equally many trained parameters, on equally many samples
and, the autoregressive ones, also for as long as LaDiC; the same learning rates are tried for all, on val. Beam search,
consensus of samples, an average of the weights and the teacher's captions are offered to both sides; the best way of
each arm on val stands for it. The claim "no worse" holds if the lower end of the interval of the quotient of CIDEr-D on
test_composition reaches 0.95; it is void if the autoregressive arm is above 95 % of the ceiling, or if LaDiC's last
validation is more than 2 % above the one before.

    python -m vislex.benchmarks.ladic_against_ar                      two cores, some hours with all arms
    python -m vislex.benchmarks.ladic_against_ar --smoke              does it run here? about a minute
    python -m vislex.benchmarks.ladic_against_ar --hidden-size 256 --num-layers 4 --num-heads 8 --steps 4500 \\
        --vocabulary default --seeds 0,1,2 --styles lossy,dense       the experiment at its full size

One training runs after the other, and the same command goes on where it was stopped. ``--arm ladic=DIR`` takes an
existing captioner in place of a training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from vislex.benchmarks.against_ar_plot import plot_comparison
from vislex.benchmarks.against_ar_runs import AgainstARConfig, StyleRuns, reference_lengths
from vislex.benchmarks.against_ar_tables import by_length, table, verdicts
from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.experiment import SMOKE
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.provenance import collect

__all__ = ["main"]

SMOKE_SIZES = SMOKE | {
    "n_latency": 1,
    "throughput": "[1, 2]",
    "timed_steps": 2,
    "out": "runs/smoke/ladic_against_ar.json",
    "folder": "runs/smoke/ladic",
}
SHOWN = {
    "CIDEr-D": 100,
    "BLEU-4": 100,
    "ROUGE-L": 100,
    "scene-F1": 100,
    "distinct-2": 100,
    "unique": 100,
    "novelty": 100,
    "evaluations": 1,
    "ms a caption": 1,
    "CPU ms a caption": 1,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints tables and verdict."""
    config, as_json = parse_options(
        AgainstARConfig, arguments, smoke=SMOKE_SIZES, description="LaDiC against autoregression (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=200)
    settings = config.model_dump(mode="json")
    file = RowFile(config.out, "ladic_against_ar", collect(config=settings, seed=config.seeds[0], device=config.device))
    tables: dict[str, list[dict[str, Any]]] = {"table": [], "lengths": [], "verdicts": [], "parameters": []}
    for style in config.styles:
        runs = StyleRuns(config, style, file, console.print)
        tables["parameters"] += [
            {"style": style, "arm": arm.name, "intermediate size": runs.sizes[arm.name].intermediate_size}
            | runs.sizes[arm.name].counts
            for arm in config.contenders
        ]
        print_rows(console, "parameters", tables["parameters"])
        rows = runs.run()
        tables["table"] += table(rows, config.lrs)
        tables["lengths"] += by_length(rows, reference_lengths(runs.data["test_composition"]))
        tables["verdicts"] += verdicts(rows)
    file.conclude(**tables)
    plot = plot_comparison(tables["table"], tables["lengths"], config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(tables))
        return
    rates = {f"captions a second at {size}": 1 for size in config.throughput}
    shown = [_scaled(entry, SHOWN | rates) for entry in tables["table"]]
    print_rows(console, "each arm in every way it writes (x 100; chosen on val: *)", shown)
    lengths = [
        _scaled(entry, {"CIDEr-D": 100, "scene-F1": 100, "ms": 1}, keep=("from", "to", "n"))
        for entry in tables["lengths"]
    ]
    print_rows(console, "by words of the references (x 100)", lengths)
    for verdict in tables["verdicts"]:
        console.print(_sentence(verdict))
    console.print(f"plot: {plot}")


def _scaled(entry: Mapping[str, Any], scales: Mapping[str, int], keep: Iterable[str] = ()) -> dict[str, Any]:
    named = {"style": entry["style"], "arm": entry["arm"], "way": entry["way"] + (" *" if entry.get("chosen") else "")}
    known = {name: None if entry.get(name) is None else scale * entry[name] for name, scale in scales.items()}
    return {**named, **{name: entry[name] for name in keep}, **known}


def _sentence(verdict: Mapping[str, Any]) -> str:
    interval = "no interval"
    if verdict["ratio"] is not None:
        interval = f"{verdict['ratio']:.3f} [{verdict['low']:.3f}, {verdict['high']:.3f}]"
    ours, theirs = (100 * score for score in verdict["CIDEr-D"])
    return (
        f"{verdict['style']}: {verdict['arm']} ({verdict['way']}, {ours:.1f}) / {verdict['rival']} "
        f"({verdict['rival way']}, {theirs:.1f}; {verdict['against']}) = {interval}: {verdict['verdict']}"
        + "".join(f"; {reason}" for reason in verdict["reasons"])
    )


if __name__ == "__main__":
    main()
