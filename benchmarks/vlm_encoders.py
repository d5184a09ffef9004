"""What does a vision-language model gain from its encoder? One table at one training budget: encoders x connectors.

Every arm is the same small language model behind another encoder and connector, trained by the recipes ``align`` and
``sft`` on captions, questions and masks with the same data, steps and learning rates; in the configuration of its
training the encoder is one word. All arms answer, segment and caption the same images of test_composition. Beside them
stand the most common answers, and each model asked without the images.

The claim, on a SigLIP after ViLex: its patches are better than those of the untouched SigLIP and than those of a SigLIP
whose own loss was continued for as long, in answers on position and on number and in masks, each paired interval above
0, with the connector ``mlp``. Naming and the other types, captions and the other connector are reported, not judged.

    python -m vislex.benchmarks.vlm_encoders                        two cores, about twenty minutes an arm
    python -m vislex.benchmarks.vlm_encoders --vilex DIR --continued hf:DIR      with all arms of the claim
    python -m vislex.benchmarks.vlm_encoders --encoders siglip-tiny,siglip-tiny@untrained,YOURS --connectors mlp
    python -m vislex.benchmarks.vlm_encoders --smoke                does it run here? a minute

DIR of --vilex is what ``vislex train vilex_pretrain`` leaves; --continued is an encoder. The same command goes on where
it was stopped, and with more names, connectors or seeds it widens the table.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console

from vislex.benchmarks.caption_models import folder_hash
from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.summary import UNTRAINED
from vislex.benchmarks.trained_rows import best_of_each_seed
from vislex.benchmarks.vlm_encoder_pairs import CONTINUED, PATCHES, arm_name, conclude, encoder_pairs
from vislex.benchmarks.vlm_experiment import SMOKE, Row, VlmArm, VlmExperiment
from vislex.benchmarks.vlm_measures import BLIND, CAPTIONS, MAJORITY, MASK, VQA, Measures, by_group
from vislex.benchmarks.vlm_plots import plot_encoders
from vislex.data import openmoji
from vislex.encoders.factory import create_encoder
from vislex.exporting import export_backbone
from vislex.provenance import collect
from vislex.registry import registry

__all__ = ["VlmEncoders", "VlmEncodersConfig", "main", "table"]

RESULTS = Path(__file__).parent / "results" / "vlm_encoders.json"
SMOKE_SIZES = SMOKE | {
    "vilex_budgets": "[1, 4]",
    "pool_tokens": 4,
    "out": "runs/smoke/vlm_encoders.json",
}
NO_VILEX = (
    "without --vilex DIR (what 'vislex train vilex_pretrain' leaves) the arms of ViLex are left out: its patches, and "
    "its tokens at {budgets}"
)


class VlmEncodersConfig(VlmExperiment):
    """Options of ``vlm_encoders``."""

    encoders: list[str] = Field(
        ["siglip-tiny", f"siglip-tiny{UNTRAINED}", "efficientnet-lite0"],
        min_length=1,
        description="names of encoders; the first is the one that ViLex began with, @untrained behind it its control",
    )
    vilex: Path | None = Field(None, description="folder of a ViLex model; none leaves its arms out")
    vilex_budgets: list[int] = Field([1, 4, 16], description="tokens that its pooling gives an image, an arm each")
    continued: str | None = Field(None, description="the first encoder, its own loss continued for as long: hf:DIR")
    connectors: list[str] = Field(["mlp", "attention_pool"], min_length=1, description="names of connectors")
    pool_tokens: int = Field(16, ge=1, description="tokens that a connector with queries gives an image")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    def named_encoders(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Name in the table, name for the recipes and options of every encoder.

        Raises:
            UnknownNameError: If there is no such encoder.
            CheckpointError: If there is no ViLex model in ``vilex``.
            ConfigError: If it has fewer tokens than a budget.
        """
        for name in self.encoders:
            registry("encoders").resolve(name.removesuffix(UNTRAINED))
        found: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in self.encoders]
        if self.continued is not None:
            found.append((CONTINUED, self.continued, {}))
        if self.vilex is not None:
            for budget in self.vilex_budgets:
                create_encoder(f"vilex:{self.vilex}", n_tokens=budget)
            tower = self.folder / f"vilex-backbone-{folder_hash(self.vilex)[:8]}"
            if not (tower / "README.md").is_file():  # the last that is written
                export_backbone(self.vilex, "hf", tower)
            found.append((PATCHES, f"hf:{tower}", {}))
            found += [
                (f"ViLex, {budget} token{'s' * (budget > 1)}", f"vilex:{self.vilex}", {"n_tokens": budget})
                for budget in self.vilex_budgets
            ]
        return found

    def arms(self) -> list[VlmArm]:
        """Every encoder with every connector."""
        arms = []
        for connector in self.connectors:
            pools = "n_tokens" in inspect.signature(registry("connectors").get(connector).load().create).parameters
            options = {"connector_options": {"n_tokens": self.pool_tokens}} if pools else {}
            for name, encoder, own in self.named_encoders():
                joining = {**options, **({"encoder_options": own} if own else {})}
                arms.append(VlmArm(arm_name(name, connector), encoder, connector, joining))
        return arms


class VlmEncoders:
    """Models and their measurements, each made once.

    Args:
        config: Options.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: VlmEncodersConfig, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.file, self.log = config, file, log
        self.measures = Measures(config, file)

    def run(self) -> list[Row]:
        """Makes what is missing; gives all rows: kinds "training" and "measured"."""
        arms = self.config.arms()
        self.log(f"language model: {self.config.language_model()}; {len(arms)} arms")
        rows = [self.measures.majority()]
        for arm in arms:
            trained = self.config.trainings(self.file, arm, self.log)
            rows += [*trained, *(self._measured(row) for row in best_of_each_seed(trained))]
        return rows

    def _measured(self, trained: Row) -> Row:
        row = self.measures.answered(trained, (VQA, BLIND, MASK, CAPTIONS))
        scores = ", ".join(f"{task} {100 * row['scores'][task]:.1f}" for task in (VQA, BLIND, MASK, CAPTIONS))
        self.log(f"{row['arm']}, seed {row['seed']}, {row['tokens']} tokens an image: {scores}")
        return row


def table(rows: Sequence[Row], types: Sequence[str]) -> list[Row]:
    """One entry for each arm: means over seeds, all but "tokens" and "seeds" on the official scales.

    Args:
        rows: Of ``VlmEncoders.run``.
        types: Type of each question.
    """
    measured = [row for row in rows if row["kind"] == "measured"]
    entries = []
    for arm in dict.fromkeys(row["arm"] for row in measured):
        own = [row for row in measured if row["arm"] == arm]
        scores = {name: float(np.mean([row["scores"][name] for row in own])) for name in own[0]["scores"]}
        answers = np.mean([row["per_image"][VQA] for row in own], axis=0)
        entry: Row = {"arm": arm, "tokens": own[0].get("tokens"), "seeds": len(own), VQA: scores.pop(VQA)}
        entries.append({**entry, **by_group(answers, types), **scores})
    return sorted(entries, key=lambda entry: entry["arm"] == MAJORITY)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints the table, the differences and the verdict."""
    config, as_json = parse_options(
        VlmEncodersConfig, arguments, smoke=SMOKE_SIZES, description=str(__doc__).partition("    python")[0]
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=220)
    if config.vilex is None:
        console.print(NO_VILEX.format(budgets=", ".join(map(str, config.vilex_budgets))))
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seeds[0], device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "vlm_encoders", facts)
    encoders = VlmEncoders(config, file, console.print)
    rows = encoders.run()
    types = encoders.measures.types
    pairs = encoder_pairs(rows, types, [name for name, *_ in config.named_encoders()], config.connectors)
    found: dict[str, Any] = {"table": table(rows, types), "pairs": pairs, "verdict": conclude(pairs)}
    file.conclude(**found)
    plot = plot_encoders(found["table"], config.connectors, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    shown = [{name: 100 * v if isinstance(v, float) else v for name, v in entry.items()} for entry in found["table"]]
    print_rows(console, "encoders in a vision-language model (x 100)", shown)
    for pair in pairs:
        if pair["about"] in (VQA, MASK, CAPTIONS) or pair["judged"]:
            low, middle, high = (100 * pair[name] for name in ("low", "difference", "high"))
            console.print(
                f"{pair['about']}, {pair['arm']} - {pair['rival']}: {middle:+.1f} [{low:+.1f}, {high:+.1f}] x 100: "
                f"that it is better {pair['verdict']}"
            )
    console.print(f"patches are better after ViLex, in position, number and masks: {found['verdict']}")
    console.print(f"plot: {plot}")


if __name__ == "__main__":
    main()
