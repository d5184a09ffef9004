"""Why does LaDiC trail autoregression? One change of its training at a time, and what goes wrong in its captions.

The base is LaDiC distilled from the beam of an autoregressive teacher; both trainings are those of
``ladic_against_ar``. Each arm changes one thing; an autoregressive student and a masked-diffusion one of the same
captions show what these can teach. Some arms put back what the paper does, or what is wrong in its release. Beside
CIDEr-D stands how the objects of the images are named: which are left out, which are named twice instead.

    python -m vislex.benchmarks.ladic_causes             two cores, about fifteen minutes an arm
    python -m vislex.benchmarks.ladic_causes --smoke     does it run here? about a minute

The same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator
from rich.console import Console

from vislex.benchmarks.against_ar_runs import AgainstARConfig, StyleRuns
from vislex.benchmarks.caption_models import VislexCaptioner, folder_hash
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.captioning import score, scorer_ids
from vislex.benchmarks.cause_arms import BASE, CAUSE_ARMS, CauseArm, compare_with_base, object_errors
from vislex.benchmarks.cause_plot import plot_causes
from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.contenders import CONTENDERS, TEACHER, TEACHER_OPTIONS, ways
from vislex.benchmarks.encoded import decode, encode
from vislex.benchmarks.experiment import SMOKE, Experiment
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trained_rows import best_of_each_seed, sweep, trained_row
from vislex.benchmarks.trainings import train_once
from vislex.errors import did_you_mean
from vislex.provenance import collect
from vislex.recipes import ladic_codec
from vislex.specs import VisionTokens

__all__ = ["Causes", "CausesConfig", "main"]

RESULTS = Path(__file__).parent / "results" / "ladic_causes.json"
STYLE = "lossy"
# The way in which arms are compared, fixed before the runs, and a second one.
JUDGED = {"ladic": "16 steps, renoised", "cross_attention": "greedy", "masked": "16 steps"}
ALSO = {"ladic": "8 steps", "cross_attention": "beam 4", "masked": "8 steps"}
SMOKE_SIZES = SMOKE | {"out": "runs/smoke/ladic_causes.json", "folder": "runs/smoke/ladic"}


class CausesConfig(Experiment):
    """Options of ``ladic_causes``."""

    steps: int = Field(2500, ge=2, description="training steps of a captioner")
    codec_steps: int = Field(200, ge=2, description="training steps of the codec")
    lrs: list[float] = Field([2e-3], min_length=1, description="learning rates that every arm tries")
    arms: list[str] = Field(list(CAUSE_ARMS), min_length=1, description="changes to train")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: list[str]) -> list[str]:
        for name in arms:
            if name not in CAUSE_ARMS:
                raise ValueError(f"no arm '{name}'{did_you_mean(name, CAUSE_ARMS)} Arms are {', '.join(CAUSE_ARMS)}")
        return arms


class Causes:
    """Teacher, codec, captioners and their measurements, each made once.

    Args:
        config: Options.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: CausesConfig, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.file, self.log = config, file, log
        shared = config.model_dump(include=set(Experiment.model_fields))
        self.shared = StyleRuns(AgainstARConfig(arms=[TEACHER, BASE, "masked"], **shared), STYLE, file, log)
        self.data = self.shared.data["test_composition"]
        self._encoded: list[VisionTokens] = []

    def run(self) -> list[dict[str, Any]]:
        """Makes what is missing; gives all rows: kinds "training" and "captions"."""
        rows = self._measured(TEACHER, "cross_attention", {"seed": self.config.seeds[0], "folder": self.shared.teacher})
        for name in self.config.arms:
            arm = CAUSE_ARMS[name]
            trained = list(sweep(functools.partial(self._train, arm), self.config.seeds, self.config.lrs))
            rows += trained
            for row in best_of_each_seed(trained):
                rows += self._measured(arm.name, arm.decoder, row)
        return rows

    def _codec(self, arm: CauseArm) -> Path:
        """The codec of the base, or one of the arm's own; more images have more words, and so a codec of their own."""
        if arm.images == 1 and not arm.codec:
            return self.shared.codec
        config = self.config.codec_config(STYLE, train_size=arm.images * self.config.train_size, **arm.codec)
        return train_once(ladic_codec.RECIPE, config, self.config.folder, f"{STYLE}-codec").folder

    def _train(self, arm: CauseArm, seed: int, lr: float) -> dict[str, Any]:
        options = {"intermediate_size": self.shared.sizes[arm.decoder].intermediate_size, **arm.options}
        if arm.decoder == "ladic":
            options["codec"] = str(self._codec(arm))
        values: dict[str, Any] = {"train_size": arm.images * self.config.train_size}
        if arm.share:
            values |= {"distill_from": str(self.shared.teacher), "distill_options": TEACHER_OPTIONS}
            values |= {"distill_share": arm.share}
        config = self.config.caption(arm.decoder, seed=seed, lr=lr, style=STYLE, decoder_options=options, **values)
        where = {"style": STYLE, "arm": arm.name, "seed": seed, "lr": lr}
        name = f"{STYLE}-{arm.name.replace(' ', '-')}-seed{seed}"
        row = trained_row(self.file, where, config, self.config.folder, name)
        self.log(f"{arm.name}, seed {seed}, lr {lr:g}: {row['seconds']:.0f} s, CIDEr-D {100 * row['val']:.1f} on val")
        return row

    def _measured(self, name: str, decoder: str, trained: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [self._captions(name, decoder, way, trained) for way in (JUDGED[decoder], ALSO[decoder])]

    def _captions(self, name: str, decoder: str, way: str, trained: Mapping[str, Any]) -> dict[str, Any]:
        options = ways(CONTENDERS[decoder])[way]
        where = {"kind": "captions", "arm": name, "seed": trained["seed"], "way": way}
        where |= {"model": folder_hash(Path(trained["folder"]))}
        where |= {"options": options, "data": self.data.record.key, "scorers": scorer_ids()}

        def make() -> dict[str, Any]:
            model = open_caption_model(trained["folder"], device=self.config.device, dtype="float32")
            assert isinstance(model, VislexCaptioner)
            self._encoded = self._encoded or encode(model.captioner, self.data, self.config.batch_size)
            made = decode(model.captioner, self._encoded, **options)
            captions = dict(zip(self.data.record.ids, made.captions, strict=True))
            scores, per_image = score(captions, self.data)
            assert self.data.factors is not None
            return {
                "scores": scores,
                "per_image": {"CIDEr-D": per_image["CIDEr-D"]},
                "evaluations": float(np.mean(made.evaluations)),
                "objects": object_errors(captions, self.data.factors),
                "examples": made.captions[:24],
            }

        row = self.file.row(where, make)
        assert row is not None
        figures = row["objects"]["all"]
        self.log(
            f"{name}, seed {trained['seed']}, {way}: CIDEr-D {100 * row['scores']['CIDEr-D']:.1f}, objects' precision "
            f"{figures['precision']:.2f}, recall {figures['recall']:.2f}, one named twice and another left out in "
            f"{figures['repeats']:.0%}"
        )
        return row


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each arm and way: means over seeds, in [0, 1] but for CIDEr-D."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "captions":
            groups.setdefault((row["arm"], row["way"]), []).append(row)
    entries = []
    for (arm, way), own in groups.items():
        entry: dict[str, Any] = {"arm": arm, "way": way, "seeds": len(own)}
        entry["evaluations"] = float(np.mean([row["evaluations"] for row in own]))
        entry |= {name: float(np.mean([row["scores"][name] for row in own])) for name in ("CIDEr-D", "scene-F1")}
        for name in ("precision", "recall", "repeats"):
            entry[name] = float(np.mean([row["objects"]["all"][name] for row in own]))
        entries.append(entry)
    return entries


def judged_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """CIDEr-D of each image in the way that is judged, by arm and seed."""
    scores: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["kind"] == "captions" and row["way"] in JUDGED.values():
            scores.setdefault(row["arm"], {})[row["seed"]] = row["per_image"]["CIDEr-D"]
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints the table and what each change does."""
    config, as_json = parse_options(
        CausesConfig, arguments, smoke=SMOKE_SIZES, description="why LaDiC trails autoregression (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=200)
    facts = collect(config=config.model_dump(mode="json"), seed=config.seeds[0], device=config.device)
    file = RowFile(config.out, "ladic_causes", facts)
    rows = Causes(config, file, console.print).run()
    found = {"table": table(rows), "differences": compare_with_base(judged_scores(rows))}
    file.conclude(**found)
    plot = plot_causes(found["table"], found["differences"], config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    unscaled = ("seeds", "evaluations")
    shown = [
        {name: 100 * v if isinstance(v, float) and name not in unscaled else v for name, v in entry.items()}
        for entry in found["table"]
    ]
    print_rows(console, "LaDiC and one change each (x 100)", shown)
    for pair in found["differences"]:
        low, middle, high = (100 * pair[name] for name in ("low", "difference", "high"))
        console.print(
            f"{pair['arm']} - {pair['base']}: {middle:+.1f} [{low:+.1f}, {high:+.1f}] CIDEr-D x 100: that it helps "
            f"{pair['verdict']}"
        )
    console.print(f"plot: {plot}")


if __name__ == "__main__":
    main()
