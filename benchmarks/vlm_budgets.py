"""How many tokens does an image need in a vision-language model, and can one connector serve every number of them?

One ``attention_pool`` connector is trained with TailDrop and then run with 4, 16 and 64 tokens an image; beside it
stands a model of its own for each of these budgets, trained for exactly so many tokens, with the same parts, data,
steps and learning rates. All answer the same questions of test_composition. The one model is also timed: answers a
second from the image on, of a fixed number of tokens, the budgets in turn, so that other work falls on all of them.

The claim: at each budget the lower end of the paired interval of the quotient of VQA accuracies, TailDrop in the model
trained for the budget, reaches 0.95. What a budget costs in accuracy and gains in speed is reported, not judged.

    python -m vislex.benchmarks.vlm_budgets                         two cores, about an hour and a half
    python -m vislex.benchmarks.vlm_budgets --budgets 1,4,16 --tail-drop uniform
    python -m vislex.benchmarks.vlm_budgets --smoke                 does it run here? a minute

The same command goes on where it was stopped. Speeds are of the machine as it was: take them where nothing else runs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.interleaved import interleave
from vislex.benchmarks.noninferiority import LEAST_RATIO, quotient
from vislex.benchmarks.options import ascending, parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trained_rows import best_of_each_seed
from vislex.benchmarks.vlm_experiment import SMOKE, Row, VlmArm, VlmExperiment
from vislex.benchmarks.vlm_finetuning import conclude
from vislex.benchmarks.vlm_measures import VQA, Measures, difference, paired, scores_of
from vislex.benchmarks.vlm_plots import plot_budgets
from vislex.benchmarks.vlm_rows import open_model
from vislex.data import openmoji
from vislex.provenance import collect

__all__ = ["VlmBudgets", "VlmBudgetsConfig", "compare_budgets", "main", "speeds", "table"]

RESULTS = Path(__file__).parent / "results" / "vlm_budgets.json"
TAIL_DROP = "TailDrop"
SMOKE_SIZES = SMOKE | {
    "budgets": "[1, 4]",
    "speed_runs": 2,
    "speed_tokens": 2,
    "speed_batch_sizes": "[1, 2]",
    "out": "runs/smoke/vlm_budgets.json",
}


class VlmBudgetsConfig(VlmExperiment):
    """Options of ``vlm_budgets``."""

    encoder: str = Field("siglip-tiny", description="frozen encoder of all arms")
    budgets: list[int] = Field(
        [4, 16, 64], min_length=2, description="numbers of tokens; the last is all of TailDrop's"
    )
    tail_drop: Literal["uniform", "pow2", "uniform_pow2"] = Field(
        "uniform_pow2", description="how many tokens a training step of the one model keeps"
    )
    speed_batch_sizes: list[int] = Field([1, 16], min_length=1, description="questions a batch of the timing")
    speed_tokens: int = Field(8, ge=1, description="tokens of each timed answer, no more and no fewer")
    speed_runs: int = Field(9, ge=1, description="timed rounds, after one that is not")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, budgets: list[int]) -> list[int]:
        return ascending("budgets", budgets, 1)

    def arms(self) -> list[VlmArm]:
        """The one model with TailDrop, then a model for each budget."""
        whole: dict[str, Any] = {"connector_options": {"n_tokens": self.budgets[-1]}, "tail_drop": self.tail_drop}
        fixed: list[dict[str, Any]] = [{"connector_options": {"n_tokens": budget}} for budget in self.budgets]
        names = [TAIL_DROP, *map(trained_for, self.budgets)]
        return [
            VlmArm(name, self.encoder, "attention_pool", joining)
            for name, joining in zip(names, (whole, *fixed), strict=True)
        ]


def trained_for(budget: int) -> str:
    """Name of the arm whose connector was trained for one budget."""
    return f"trained for {budget}"


def run_at(budget: int) -> str:
    """Name of the rows of the one model at a budget."""
    return f"{TAIL_DROP} at {budget}"


class VlmBudgets:
    """Models and their measurements, each made once.

    Args:
        config: Options.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: VlmBudgetsConfig, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.file, self.log = config, file, log
        self.measures = Measures(config, file)

    def run(self) -> list[Row]:
        """Makes what is missing; gives all rows: kinds "training", "measured" and "speed"."""
        rows = []
        for arm in self.config.arms():
            trained = self.config.trainings(self.file, arm, self.log)
            rows += trained
            for row in best_of_each_seed(trained):
                if arm.name != TAIL_DROP:
                    rows.append(self._answered(row))
                    continue
                for budget in self.config.budgets:
                    rows.append(self._answered({**row, "arm": run_at(budget)}, budget))
                if row["seed"] == self.config.seeds[0]:
                    rows.append(self._timed(row))
        return rows

    def _answered(self, trained: Row, budget: int | None = None) -> Row:
        row = self.measures.answered(trained, budget=budget)
        self.log(
            f"{row['arm']}, seed {row['seed']}, {row['tokens']} tokens an image: {row['scores'][VQA]:.1%} answered"
        )
        return row

    def _timed(self, trained: Row) -> Row:
        """Seconds of every round, by batch size and budget."""
        config = self.config
        where = {"kind": "speed", "arm": trained["arm"], "seed": trained["seed"], "training": trained["key"]}
        where |= {"budgets": config.budgets, "batch sizes": config.speed_batch_sizes}
        where |= {"answer tokens": config.speed_tokens, "runs": config.speed_runs}

        def make() -> Row:
            model, _ = open_model(trained["folder"], device=config.device)
            seconds: dict[str, dict[str, list[float]]] = {}
            for size in config.speed_batch_sizes:
                rows = self.measures.questions.rows[:size]
                ask = functools.partial(model.ask, rows["image"], rows["question"], batch_size=size)
                length = {"max_new_tokens": config.speed_tokens, "min_new_tokens": config.speed_tokens}
                sides = [functools.partial(ask, n_tokens=budget, **length) for budget in config.budgets]
                for side in sides:
                    side()
                timed = interleave(sides, config.speed_runs)
                seconds[str(size)] = {str(k): wall for k, (wall, _) in zip(config.budgets, timed, strict=True)}
            return {"wall": seconds}

        row = self.file.row(where, make)
        assert row is not None
        return row


def compare_budgets(rows: Sequence[Row], budgets: Sequence[int]) -> list[Row]:
    """The one model against that of each budget, paired over questions and common seeds.

    Args:
        rows: Of ``VlmBudgets.run``.
        budgets: Tokens an image.

    Returns:
        "tokens", the accuracies of both sides, "difference" with its interval, and the quotient ("ratio", "low",
        "high") with the verdict on "at least 0.95".
    """
    found = []
    for budget in budgets:
        sides = [scores_of(rows, name, VQA) for name in (run_at(budget), trained_for(budget))]
        if (arrays := paired(*sides)) is not None:
            apart = difference(*sides)
            assert apart is not None  # as they pair
            scores = [float(side.mean()) for side in arrays]
            entry = {"tokens": budget, VQA: scores, "least": LEAST_RATIO, **quotient(*arrays)}
            found.append({**entry, "difference": {name: apart[name] for name in ("difference", "low", "high")}})
    return found


def speeds(rows: Sequence[Row]) -> list[Row]:
    """Answers a second by batch size and budget: of the median round, and of its quartiles ("low", "high")."""
    found = []
    for row in rows:
        if row["kind"] == "speed":
            for size, by_budget in row["wall"].items():
                for budget, wall in by_budget.items():
                    low, middle, high = (int(size) / np.quantile(wall, share) for share in (0.75, 0.5, 0.25))
                    entry = {"batch size": int(size), "tokens": int(budget), "answers a second": float(middle)}
                    found.append({**entry, "low": float(low), "high": float(high)})
    return found


def table(pairs: Sequence[Row], timed: Sequence[Row]) -> list[Row]:
    """One entry for each budget: accuracies, their quotient, and answers a second by batch size."""
    entries = []
    for pair in pairs:
        entry: Row = {"tokens": pair["tokens"], TAIL_DROP: pair[VQA][0], "trained for it": pair[VQA][1]}
        entry |= {"quotient": pair["ratio"], "low": pair["low"], "high": pair["high"], "verdict": pair["verdict"]}
        for speed in timed:
            if speed["tokens"] == pair["tokens"]:
                entry[f"answers a second, batch {speed['batch size']}"] = speed["answers a second"]
        entries.append(entry)
    return entries


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints the table and the verdict."""
    config, as_json = parse_options(
        VlmBudgetsConfig, arguments, smoke=SMOKE_SIZES, description=str(__doc__).partition("    python")[0]
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=160)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seeds[0], device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "vlm_budgets", facts)
    rows = VlmBudgets(config, file, console.print).run()
    pairs, timed = compare_budgets(rows, config.budgets), speeds(rows)
    found: dict[str, Any] = {"pairs": pairs, "speeds": timed, "verdict": conclude(pairs)}
    file.conclude(**found)
    plot = plot_budgets(pairs, timed, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    percent = (TAIL_DROP, "trained for it", "quotient", "low", "high")
    entries = table(pairs, timed)
    shown = [{k: 100 * v if k in percent and v is not None else v for k, v in entry.items()} for entry in entries]
    print_rows(console, "tokens an image (accuracy and quotient in %)", shown)
    console.print(f"one connector serves every budget ({LEAST_RATIO:.0%} of one trained for it): {found['verdict']}")
    console.print(f"plot: {plot}")


if __name__ == "__main__":
    main()
