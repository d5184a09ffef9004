"""The main job in one command: two pretrained encoders against their own architectures untrained, with every decoder.

    python -m vislex.benchmarks.demo          (or: make demo)

Trains each arm live at the ``demo`` budget, measures the shipped captioners beside them, and ends with the table and
the path of the report. It prints paired intervals and no verdicts: one seed at a small budget settles nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from vislex.benchmarks.caption_models import shipped_captioners
from vislex.benchmarks.compare import ComparisonConfig, run
from vislex.benchmarks.results import read_results
from vislex.benchmarks.show import show
from vislex.cli.console import say
from vislex.config import load_config

__all__ = ["ENCODERS", "demo_config", "main"]

ENCODERS = (
    "efficientnet-lite0",
    "efficientnet-lite0@untrained",
    "siglip-tiny",
    "siglip-tiny@untrained",
)
MINUTES = 12


def demo_config(out: Path, budget: str = "demo", size: int = 500) -> ComparisonConfig:
    """The demo as a comparison: four encoders, the autoregressive decoders, the shipped captioners.

    Scenes are of the 100 core nouns, which a training of a minute can learn.
    """
    values = {
        "encoders": list(ENCODERS),
        "decoders": ["cross_attention", "prefix"],
        "models": list(shipped_captioners()),
        "budget": budget,
        "size": size,
        "vocabulary": "core",
        "out": str(out),
    }
    return load_config(ComparisonConfig, None, [f"{key}={value!r}" for key, value in values.items()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and prints its tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vislex.benchmarks.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of results, report and models")
    parser.add_argument("--budget", default="demo", help="budget of each training (smoke, demo, standard)")
    parser.add_argument("--size", type=int, default=500, help="images of test_composition that are scored")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    config = demo_config(options.out, options.budget, options.size)
    live = len(config.arms)
    say(
        f"{live} captioners are trained live (budget '{config.budget}'), {len(config.models)} shipped ones are measured"
    )
    say(f"as they are: {', '.join(config.models) or 'none in this installation'}")

    def log(line: str) -> None:
        say(f"{time.perf_counter() - begun:6.0f} s  {line}")

    report = run(config, log=log)
    say("")
    show(report, verdicts=False)
    _account(report, time.perf_counter() - begun)
    return 0


def _account(report: Path, total: float) -> None:
    """Where the time went."""
    runs = [item for item in read_results([report.parent]).runs if item.model.origin not in ("floor", "ceiling")]
    trained = sum(
        (item.model.training or {}).get("wall_seconds", 0.0) for item in runs if item.model.origin == "trained live"
    )
    measured = sum(item.timing.seconds for item in runs)
    say(
        f"time: {total / 60:.1f} of {MINUTES} minutes; training {trained / 60:.1f}, captioning and timing "
        f"{measured / 60:.1f}, the rest loading, drawing and scoring"
    )


if __name__ == "__main__":
    raise SystemExit(main())
