"""Does ``vislex plan --calibrate`` tell the time of a training?

Each configuration is trained for a few steps, whose seconds the meter tells, and planned with the speed of this machine
as three real steps of each *other* configuration give it. All is done in several rounds, for machines change their
speed; a pair's ratio is the median of the rounds'. The claim: every planned time is within 20 % of the training's.

    python -m vislex.benchmarks.plan_time [--configs A,B] [--steps 30] [--rounds 5] [--smoke] [--json] [--out FILE]

Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.trainings import packaged_config
from vislex.config import load_config
from vislex.errors import ConfigError, did_you_mean
from vislex.hardware import resolve_device
from vislex.provenance import collect
from vislex.registry import registry
from vislex.training.calibration import Rates, calibrate
from vislex.training.plan import make_plans
from vislex.training.recipe import Recipe
from vislex.training.settings import TrainingSettings, uses_bf16
from vislex.training.sketch import Stage

__all__ = ["CONFIGS", "compare", "main", "planned_seconds", "real_seconds"]

RESULTS = Path(__file__).parent / "results" / "plan_time.json"
CLAIM = 0.2
LOG_EVERY = 5
# Configuration -> recipe and its other values.
CONFIGS: dict[str, tuple[str, list[str]]] = {
    "siglip_pretrain_embedded": ("siglip_pretrain", ["train_size=512"]),
    "reader_embedded": ("reader", ["train_size=512"]),
    "lm_pretrain_embedded": ("lm_pretrain", ["train_size=512"]),
    "mask_tokenizer_embedded": ("mask_tokenizer", ["train_size=512"]),
    "caption_cross_attention_embedded": ("caption", ["train_size=512"]),
    "caption_masked_embedded": ("caption", ["train_size=512"]),
}
SMOKE = ["budget=smoke", "batch_size=4"]


def _opened(name: str, steps: int, extra: Sequence[str]) -> tuple[str, Recipe, TrainingSettings]:
    recipe_name, values = CONFIGS[name]
    recipe: Recipe = registry("recipes").get(recipe_name).load()
    values = [*values, "val_size=8", f"steps={steps}", f"eval_every={steps}", f"log_every={LOG_EVERY}", *extra]
    fixed = ["warmup_steps=1", "save_every=0", "resume=never", "progress=false"]
    return recipe_name, recipe, load_config(recipe.config, packaged_config(name), [*values, *fixed])


def real_seconds(recipe: Recipe, settings: TrainingSettings) -> float:
    """Seconds of a step of a real training, the median of its log lines; the first one, which warms up, is left out."""
    with tempfile.TemporaryDirectory() as folder:
        made = recipe.run(settings.model_copy(update={"output_dir": Path(folder) / "run"}))
        lines = [json.loads(line) for line in (Path(made) / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [line["samples_per_second"] for line in lines if "samples_per_second" in line]
    return settings.batch_size * settings.gradient_accumulation / float(np.median(speeds[1:]))


def _rates(recipe: Recipe, settings: TrainingSettings, device: torch.device, name: str) -> Rates:
    assert recipe.sketch is not None
    with torch.device(device):
        stage = Stage(list(recipe.sketch(settings))[-1], bf16=uses_bf16(settings))
    return calibrate(stage, settings.batch_size, device, measured_on=name)


def planned_seconds(name: str, recipe: Recipe, settings: TrainingSettings, rates: Rates) -> float:
    """Seconds of a step as ``vislex plan`` tells them."""
    seconds = list(make_plans(name, recipe, settings, rates=rates))[-1].seconds
    assert seconds is not None
    return seconds[0]


def compare(names: Sequence[str], *, steps: int, rounds: int, smoke: bool) -> list[dict[str, Any]]:
    """Plans each configuration by each other one.

    Returns:
        A row for each pair: "config", "calibrated on", the "ratios" of planned to real seconds of a step in each round,
        their median "ratio", and medians of "planned" and "real".
    """
    device = resolve_device("auto")
    opened = {name: _opened(name, steps, SMOKE if smoke else []) for name in names}
    real: dict[str, list[float]] = {name: [] for name in names}
    planned: dict[tuple[str, str], list[float]] = {pair: [] for pair in itertools.permutations(names, 2)}
    for _ in range(rounds):
        rates = {}
        for name, (_, recipe, settings) in opened.items():
            real[name].append(real_seconds(recipe, settings))
            rates[name] = _rates(recipe, settings, device, name)
        for (name, other), found in planned.items():
            recipe_name, recipe, settings = opened[name]
            found.append(planned_seconds(recipe_name, recipe, settings, rates[other]))
    rows = []
    for (name, other), found in planned.items():
        ratios = [float(own) for own in np.divide(found, real[name])]
        seconds = {"planned": float(np.median(found)), "real": float(np.median(real[name]))}
        rows.append(
            {"config": name, "calibrated on": other, **seconds, "ratio": float(np.median(ratios)), "ratios": ratios}
        )
    return rows


def conclude(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pairs are within the claim, and the worst of them."""
    ratios = np.array([row["ratio"] for row in rows])
    apart = np.maximum(ratios, 1 / ratios) - 1
    worst = rows[int(apart.argmax())]
    within = int((np.abs(ratios - 1) <= CLAIM).sum())
    verdict = "holds" if within == len(rows) else "does not hold"
    return {"claim": CLAIM, "pairs": len(rows), "within": within, "worst": dict(worst), "verdict": verdict}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--configs", default=",".join(CONFIGS), help="which configurations, at least two")
    parser.add_argument("--steps", type=int, default=30, help="steps of each training")
    parser.add_argument("--rounds", type=int, default=5, help="how often all is measured")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it work here?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    given = parser.parse_args(arguments)
    names = given.configs.split(",")
    for name in names:
        if name not in CONFIGS:
            raise ConfigError(f"no configuration '{name}'{did_you_mean(name, CONFIGS)} There are {', '.join(CONFIGS)}")
    if len(set(names)) < 2:
        raise ConfigError("--configs takes at least two, for each is planned by another")
    if given.steps < 3 * LOG_EVERY:
        raise ConfigError(f"--steps is {given.steps}; it takes at least {3 * LOG_EVERY} for speeds behind the warm-up")
    if given.rounds < 1:
        raise ConfigError(f"--rounds is {given.rounds}; it takes at least 1")
    logging.getLogger("vislex").setLevel(logging.WARNING)
    rows = compare(names, steps=given.steps, rounds=given.rounds, smoke=given.smoke)
    options = {
        "configs": names,
        "steps": given.steps,
        "rounds": given.rounds,
        "smoke": given.smoke,
        "threads": torch.get_num_threads(),
    }
    provenance = collect(config=options, seed=0, device=str(resolve_device("auto")))
    found = conclude(rows)
    result = {"benchmark": "plan_time", "provenance": provenance, "rows": rows, "conclusion": found}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True, width=200)
    if given.json:
        console.print_json(data=result)
        return
    shown = [
        {
            **{key: row[key] for key in ("config", "calibrated on")},
            **{key: 1e3 * row[key] for key in ("planned", "real")},
            "ratio": f"{row['ratio']:.2f}",
            "rounds": f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}",
        }
        for row in rows
    ]
    print_rows(console, "A step in ms: planned, and trained", shown)
    console.print(
        f"within {CLAIM:.0%}: {found['within']} of {found['pairs']}; worst {found['worst']['ratio']:.2f} "
        f"({found['worst']['config']} by {found['worst']['calibrated on']}): {found['verdict']}"
    )


if __name__ == "__main__":
    main()
