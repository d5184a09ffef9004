"""The main job in one command: two pretrained encoders against their own architectures untrained, with every decoder.

    python -m vislex.benchmarks.demo          (or: make demo)

Trains one captioner live and measures those that vislex ships for the rest: all of these were trained by the same
recipe with the same budget, data and seed; the diffusion captioners were trained otherwise, as the output says. The
shipped ViLex model shows what its tokens carry, the shipped vision-language model answers questions and marks objects.
Ends with the tables and the path of the report. It prints paired intervals and no verdicts: one seed settles nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from vislex.benchmarks.caption_models import read_json
from vislex.benchmarks.compare import ComparisonConfig, run
from vislex.benchmarks.demo_vlm import measure_vlm
from vislex.benchmarks.results import read_results
from vislex.benchmarks.show import show
from vislex.cli.console import say
from vislex.config import load_config
from vislex.data.sources import load_suite
from vislex.shipped import shipped, shipped_models
from vislex.vilex import ViLex

__all__ = ["DECODERS", "ENCODERS", "LIVE", "demo_config", "main"]

ENCODERS = (
    "efficientnet-lite0",
    "efficientnet-lite0@untrained",
    "siglip-tiny",
    "siglip-tiny@untrained",
)
DECODERS = ("cross_attention", "prefix")
DIFFUSION = ("captioner-ladic", "captioner-masked")  # they take longer to train than the demo has
VLM, VILEX = "vlm", "vilex-siglip-tiny"
LIVE = ("efficientnet-lite0 + cross_attention",)
MINUTES = 12


def demo_config(
    out: Path, *, budget: str = "standard", size: int = 500, live: Sequence[str] = LIVE, train_missing: bool = False
) -> ComparisonConfig:
    """The demo as a comparison: the encoders, the autoregressive decoders, and the diffusion decoders on one of them.

    Some arms are trained live, the others are measured as shipped.

    Scenes are of the 100 core nouns, whose names a standard training learns.
    """
    values = {
        "encoders": list(ENCODERS),
        "decoders": list(DECODERS),
        "models": [name for name in DIFFUSION if name in shipped_models()],
        "shipped": True,
        "live": list(live),
        "train_missing": train_missing,
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
    parser.add_argument("--budget", default="standard", help="budget of each training; shipped ones are of standard")
    parser.add_argument("--size", type=int, default=500, help="images of test_composition that are scored")
    parser.add_argument(
        "--live", action="append", metavar="ROW", help=f"row to train live (default: {', '.join(LIVE)})"
    )
    parser.add_argument("--train-missing", action="store_true", help="train what this installation does not ship")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    config = demo_config(
        options.out,
        budget=options.budget,
        size=options.size,
        live=options.live or LIVE,
        train_missing=options.train_missing,
    )
    others = "trained too" if config.train_missing else "left out"
    say(f"{len(config.arms)} captioners of the budget '{config.budget}'; trained live: {', '.join(config.live)};")
    say(f"the others are measured as vislex ships them; what this installation does not ship is {others}")

    def log(line: str) -> None:
        say(f"{time.perf_counter() - begun:6.0f} s  {line}")

    report = run(config, log=log)
    if VLM in shipped_models():
        measure_vlm(report, VLM, size=options.size, log=log)
    if VILEX in shipped_models():
        log(f"{VILEX}: images beside what is drawn from their tokens: {_draw_vilex(report.parent / 'vilex.png')}")
    say("")
    show(report, verdicts=False)
    for name in config.models:
        say(_told_apart(name))
    _account(report, time.perf_counter() - begun)
    return 0


def _draw_vilex(path: Path) -> Path:
    """Writes scenes beside what the frozen text-to-image model draws from 1, 4 and 16 tokens of each."""
    model = ViLex.from_pretrained(shipped(VILEX)).eval()
    rows = load_suite("openmoji", split="test_composition", size=8, vocabulary="core", image_size=model.t2i.image_size)
    model.reconstruction_sheet([row["image"] for row in rows], (1, 4, 16)).save(path)
    return path


def _told_apart(name: str) -> str:
    """How a shipped captioner was trained, which the arms were not."""
    trained = read_json(shipped(name) / "run.json")["config"]
    source = "an autoregressive teacher's captions" if trained["distill_from"] else "the references"
    return f"{name}: {trained['steps']:,} steps on {source}; its row says nothing of decoders at equal training"


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
