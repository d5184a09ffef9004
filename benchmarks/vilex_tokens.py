"""What do ViLex's tokens carry, and what does each one more add?

On a frozen encoder (the small SigLIP beside EfficientNet: what captions seldom tell is hardly in SigLIP alone, and a
pooling on it soon learns no more) poolings are trained through the frozen text-to-image model: with TailDrop, with
exactly k tokens, as De-Diffusion's words, and with tokens that stand past the text encoder. Beside them stand texts:
the true caption, a captioner's, De-Diffusion's, ViLex's tokens snapped to the nearest words. The first outcome is the
denoising loss of the same images under the same times and noise; then what the reader reads from images drawn from the
same start noise. The claims: the loss falls from each budget to the next; more objects need more tokens for 90 % of the
plateau; TailDrop at k is at most 5 % worse than a model trained with exactly k, with all tokens at most 2 %; one
continuous token beats every text in loss and in never-named factors. Which factors come first is reported.

    python -m vislex.benchmarks.vilex_tokens              two cores, about three hours, behind vilex_base
    python -m vislex.benchmarks.vilex_tokens --smoke      does it run here? seconds, behind vilex_base --smoke

The same command goes on where it was stopped, on another machine too: a rung that the result file holds is not measured
again, and its arm is trained only for rungs that are missing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.reconstruction import (
    SCORERS,
    MeasuredRung,
    ReconstructionBench,
    load_scenes,
    load_tools,
)
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.token_arms import DE_DIFFUSION, PAST, TokenArm, token_arms
from vislex.benchmarks.token_claims import EMPTY, TAIL_DROP, budgets_by_objects, claims, conclude, factor_budgets
from vislex.benchmarks.token_ladder import Step, ladder
from vislex.benchmarks.vilex_experiment import SMOKE, Base, TokenExperiment, tier_mean
from vislex.benchmarks.vilex_plots import plot_tokens
from vislex.data import openmoji
from vislex.diffusion.objectives import ReconstructionObjective
from vislex.diffusion.t2i.loading import load_t2i
from vislex.diffusion.words import word_ids
from vislex.hardware import resolve_device
from vislex.metrics.factors import FACTORS
from vislex.modules.digest import weights_digest
from vislex.provenance import collect
from vislex.recipes.dediffusion_pretrain import training_captions

__all__ = ["ViLexTokens", "ViLexTokensConfig", "main", "table"]

RESULTS = Path(__file__).parent / "results" / "vilex_tokens.json"
SMOKE_SIZES = SMOKE | {
    "encoder": "siglip-tiny",
    "budgets": "[1, 4]",
    "fixed": "[4, 1]",
    "size": 8,
    "loss_images": 8,
    "loss_draws": 1,
    "num_inference_steps": 2,
    "extractor": "siglip-tiny",
    "out": "runs/smoke/vilex_tokens.json",
}


class ViLexTokensConfig(TokenExperiment):
    """Options of ``vilex_tokens``."""

    budgets: list[int] = Field([1, 2, 4, 8, 16], min_length=2, description="numbers of tokens, the last is all")
    fixed: list[int] = Field([16, 4, 1], description="budgets for which a model of its own is trained")
    rivals: list[Literal["past the text encoder", "De-Diffusion"]] = Field(
        [PAST, DE_DIFFUSION], description="further arms beside TailDrop and those of exactly k tokens"
    )
    snap: bool = Field(True, description="whether TailDrop's tokens are also snapped to De-Diffusion's words")
    captioner: str | None = Field("captioner-prefix", description="whose captions are a rung; null for none")
    split: str = Field("test_composition", description="split of the images that are measured")
    size: int = Field(2000, ge=2, description="images that are drawn and read")
    loss_images: int = Field(1000, ge=2, description="images of the denoising loss")
    loss_draws: int = Field(16, ge=1, description="times and noises an image")
    num_inference_steps: int = Field(30, ge=1, description="of the drawing")
    guidance_scale: float = Field(1.0, ge=0, description="of the drawing; 1 is none")
    extractor: str = Field("efficientnet-lite0", description="of features, on which no claim rests")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.budgets != sorted(set(self.budgets)) or self.budgets[0] < 1 or self.budgets[-1] != self.n_tokens:
            raise ValueError(f"budgets {self.budgets} must ascend from at least 1 to n_tokens {self.n_tokens}")
        if unknown := [k for k in self.fixed if k not in self.budgets]:
            raise ValueError(f"fixed {unknown} are not among the budgets {self.budgets}")
        return self


class ViLexTokens:
    """Poolings and rungs, each made once.

    A rung is known by how its arms are trained: one that the file holds is not measured again, wherever its arms were
    trained, and their models need not be here. Each row says which weights were measured, and on which machine.

    Args:
        config: Options.
        base: Reader, encoder and text-to-image model.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: ViLexTokensConfig, base: Base, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.base, self.file, self.log = config, base, file, log

    def run(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Makes what is missing; gives the rows, and the number of objects of each image."""
        config = self.config
        arms = token_arms(config, self.base, fixed=config.fixed, rivals=list(config.rivals), log=self.log)
        names = ("split", "size", "loss_images", "loss_draws", "num_inference_steps", "guidance_scale", "extractor")
        values = {name: getattr(config, name) for name in names}
        bench = ReconstructionBench(vocabulary=config.vocabulary, reader=self.base.reader, **values)
        t2i = load_t2i(self.base.t2i).to(resolve_device(config.device)).eval()
        objective = ReconstructionObjective(**arms[TAIL_DROP].config.objective)
        scenes, tools = load_scenes(bench, t2i.image_size), load_tools(bench)
        told: dict[str, Any] = {"snap": config.snap, "captioner": config.captioner}
        told["vocabulary"] = word_ids(t2i, training_captions(config.dediffusion(self.base)))
        rows = []
        for step in ladder(arms, t2i, scenes, config.budgets, n=max(config.size, config.loss_images), **told):
            identity = {
                "arm": step.arm,
                "tokens": step.tokens,
                "discrete": step.discrete,
                "told": step.rung.name,
                "trainings": {name: arms[name].key for name in step.made_by},
                "t2i": t2i.sha256,
                "captioner": config.captioner if step.arm.startswith("a captioner") else None,
                "data": scenes.key,
                "bench": values | {"reader": None if tools.reader is None else weights_digest(tools.reader)},
                "batch_size": config.batch_size,
                "seed": config.seed,
                "scorers": SCORERS,
            }
            measured = MeasuredRung(t2i, objective, step.rung, bench, scenes, tools, config.batch_size, config.seed)
            row = self.file.row(identity, functools.partial(_values, measured, step, arms))
            assert row is not None
            loss = row["scores"].get("loss")
            self.log(f"{step.rung.name}: " + ("read" if loss is None else f"loss {loss:.5f}"))
            rows.append(row)
        return rows, [len(record["objects"]) for record in scenes.factors]


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a rung: loss, bits of the message, and what is read from the drawings (shares)."""
    lines = []
    for row in rows:
        line = {"arm": row["arm"], "tokens": row["tokens"], "bits": row["bits"], "loss": row["scores"].get("loss")}
        line |= {name: row["scores"][name] for name in FACTORS}
        lines.append(line | {"never named": float(tier_mean(row["per_image"]).mean())})
    return lines


def _values(measured: MeasuredRung, step: Step, arms: Mapping[str, TokenArm]) -> dict[str, Any]:
    weights = {name: arms[name].sha256 for name in step.made_by}  # which are trained now if they are not there
    return {**measured(), "bits": step.bits(), "weights": weights}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints tables and verdicts."""
    config, as_json = parse_options(
        ViLexTokensConfig, arguments, smoke=SMOKE_SIZES, description="what ViLex's tokens carry (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=220)
    base = Base.read(config.base)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seed, device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "vilex_tokens", facts)
    rows, objects = ViLexTokens(config, base, file, console.print).run()
    lines, pairs = table(rows), claims(rows, objects, base)
    groups = budgets_by_objects(rows, objects)
    found: dict[str, Any] = {"table": lines, "objects": groups, "factors": factor_budgets(rows), "claims": pairs}
    found |= {"base": base.verdict, "verdicts": conclude(pairs)}
    file.conclude(**found)
    plot = plot_tokens([line for line in lines if line["arm"] != EMPTY], groups, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    percent = {*FACTORS, "never named"}
    print_rows(console, "the ladder (loss x 1,000, factors in %)", [_scaled(line, percent) for line in lines])
    factors = [_percent(entry, {EMPTY, *(f"{k} tokens" for k in config.budgets)}) for entry in found["factors"]]
    print_rows(console, "tokens that reach 90 % of the plateau, by factor (read: %)", factors)
    print_rows(
        console, "by number of objects (% of the reduction of the loss)", [_percent(g, {"share"}) for g in groups]
    )
    for pair in pairs:
        value = pair.get("difference", pair.get("ratio"))
        interval = "no interval" if value is None else f"{value:+.4g} [{pair['low']:+.4g}, {pair['high']:+.4g}]"
        console.print(f"{pair['claim']}: {pair['about']}: {interval}, margin {pair['margin']:g}: {pair['verdict']}")
    for claim, verdict in found["verdicts"].items():
        console.print(f"{claim}: {verdict}")
    console.print(f"plot: {plot}")


def _percent(entry: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: 100 * value if name in names else value for name, value in entry.items()}


def _scaled(line: dict[str, Any], percent: set[str]) -> dict[str, Any]:
    return _percent(line, percent) | {"loss": None if line["loss"] is None else 1000 * line["loss"]}


if __name__ == "__main__":
    main()
