"""Does training through a frozen text-to-image model make a better encoder?

Arms: the untouched SigLIP; its own loss continued on the same images for as many steps; ViLex, the pooling first and
then both, and both from the start; ViLex through a text-to-image model that knows nothing (its weights in random
order); the same pooling with a decoder that regresses pixels. Linear, attentive and nearest-neighbour probes ask every
encoder for the suite's factors. The claims, against the untouched and the continued encoder and with every probe:
factors that captions never name gain at least 5 points, those they sometimes name at least 1, the concept loses at
most 1; if the model that knows nothing does as well, reconstruction helped, not the model. Zero-shot retrieval is
reported with the old pooling head, with a re-tuned one, and for the controls with theirs re-tuned as long.

    python -m vislex.benchmarks.encoder_gain              two cores, about two hours a seed, behind vilex_base
    python -m vislex.benchmarks.encoder_gain --smoke      does it run here? seconds, behind vilex_base --smoke

The same command goes on where it was stopped.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from rich.console import Console
from transformers import AutoImageProcessor, SiglipModel, SiglipVisionModel

from vislex.benchmarks.caption_data import load_suite_captions
from vislex.benchmarks.caption_models import folder_hash
from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.gain_arms import (
    ARMS,
    CONTINUED,
    END_TO_END,
    PIXELS,
    RANDOM,
    UNTOUCHED,
    claims,
    conclude,
    shuffled_t2i,
)
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.pixel_regression import RECIPE as PIXEL_RECIPE
from vislex.benchmarks.probe import ProbeBench, ProbeData, load_data, probe_rows
from vislex.benchmarks.probe_tables import differences, wide
from vislex.benchmarks.probes import PROBES, ProbeName, ProbeSettings
from vislex.benchmarks.results import content_key
from vislex.benchmarks.retrieval import evaluate, resolve_folder
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trainings import filled_config, train_once
from vislex.benchmarks.vilex_experiment import SMOKE, Base, ViLexExperiment
from vislex.benchmarks.vilex_plots import plot_gains
from vislex.data import openmoji
from vislex.errors import did_you_mean
from vislex.exporting import export_backbone
from vislex.provenance import collect
from vislex.recipes import siglip_pretrain, vilex_pretrain
from vislex.recipes.vilex_pretrain import LR_RATIO
from vislex.text import load_tokenizer

__all__ = ["EncoderGain", "EncoderGainConfig", "main"]

RESULTS = Path(__file__).parent / "results" / "encoder_gain.json"
SMOKE_SIZES = SMOKE | {
    "encoder_steps": 2,
    "head_steps": 2,
    "image_size": 48,
    "probe_train_size": 24,
    "probe_val_size": 12,
    "size": 24,
    "probes": "[knn]",
    "retrieval_size": 8,
    "settings": "{epochs: 1, lrs: [1.0e-2], hidden_size: 16}",
    "out": "runs/smoke/encoder_gain.json",
}


class EncoderGainConfig(ViLexExperiment):
    """Options of ``encoder_gain``."""

    arms: list[str] = Field(list(ARMS), min_length=1, description="encoders to compare")
    seeds: list[int] = Field([0], min_length=1, description="of the trainings; --seed is not used")
    steps: int = Field(1000, ge=1, description="steps of the pooling alone, before the encoder trains with it")
    encoder_steps: int = Field(2500, ge=1, description="steps in which the encoder trains, the same in every arm")
    head_steps: int = Field(500, ge=1, description="steps of re-tuning a pooling head for retrieval")
    probe_train_size: int = Field(20000, ge=1, description="training images of the probes")
    probe_val_size: int = Field(2000, ge=1, description="images on which the probes choose their learning rates")
    size: int = Field(10000, ge=1, description="images of test_composition that are asked about")
    probes: list[ProbeName] = Field(list(PROBES), min_length=1, description="which probes; all must hold")
    settings: ProbeSettings = Field(ProbeSettings(), description="of the probes")
    retrieval_size: int = Field(1000, ge=2, description="images of test_composition for retrieval")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: list[str]) -> list[str]:
        for name in arms:
            if name not in ARMS:
                raise ValueError(f"no arm '{name}'{did_you_mean(name, ARMS)} Arms are {'; '.join(ARMS)}")
        return arms


class EncoderGain:
    """Encoders, probes and retrieval, each made once.

    Args:
        config: Options.
        base: Encoder and text-to-image model.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: EncoderGainConfig, base: Base, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.base, self.file, self.log = config, base, file, log
        self.siglip = resolve_folder(base.encoder)[0]
        values = {"train_size": config.probe_train_size, "val_size": config.probe_val_size, "size": config.size}
        shared: dict[str, Any] = {"vocabulary": config.vocabulary, "image_size": config.image_size}
        self.bench = ProbeBench(probes=config.probes, settings=config.settings, **values, **shared)
        self.data: ProbeData = load_data(self.bench)

    def run(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Makes what is missing; gives the rows of the probes by arm and seed, and those of retrieval."""
        probed, retrieved = [], []
        for seed, arm in itertools.product(self.config.seeds, self.config.arms):
            name, siglip = self._made(arm, seed)
            self.log(f"{arm}, seed {seed}: {name}")
            options: dict[str, Any] = {"data": self.data, "device": self.config.device}
            rows = probe_rows([name], self.bench, self.file, batch_size=self.config.batch_size, **options)
            probed += [{**row, "encoder": arm, "seed": seed} for row in rows]
            retrieved += self._retrieval(arm, seed, siglip)
        return probed, retrieved

    def _made(self, arm: str, seed: int) -> tuple[str, Path]:
        """Name of an arm's encoder, and a SigLIP with it as its vision tower; trained if missing."""
        if arm == UNTOUCHED:
            return self.base.encoder, self.siglip
        if arm == CONTINUED:
            folder = self._siglip(self.siglip, seed, self.config.encoder_steps, "all")
            return f"hf:{folder}", folder
        folder = self._reconstruction(arm, seed)
        tower = folder / "backbone"
        if not (tower / "README.md").is_file():  # the last that is written
            export_backbone(folder, "hf", tower)
        return f"hf:{tower}", self._with_tower(tower, folder / "siglip")

    def _reconstruction(self, arm: str, seed: int) -> Path:
        """The training of an arm that reconstructs images."""
        values: dict[str, Any] = {"stages": "two_stage", "pooling_steps": self.config.steps}
        if arm == END_TO_END:
            values = {"stages": "end_to_end"}
        if arm == RANDOM:
            mark = content_key({"t2i": self.base.t2i, "seed": seed})[:8]
            values["t2i"] = str(shuffled_t2i(self.base.t2i, self.config.folder / f"shuffled-t2i-{mark}", seed))
        config = self.config.vilex(self.base, seed=seed, steps=self.config.encoder_steps, **values)
        recipe = PIXEL_RECIPE if arm == PIXELS else vilex_pretrain.RECIPE
        name = arm.replace(" ", "-")
        return train_once(recipe, config, self.config.folder, name).folder

    def _siglip(self, start: Path, seed: int, steps: int, tune: str) -> Path:
        """SigLIP's own loss, continued on the images of the other arms."""
        config = self.config
        fields = {
            "budget": config.budget,
            "seed": seed,
            "start_from": str(start),
            "tune": tune,
            "steps": steps,
            "lr": config.lr / LR_RATIO if tune == "all" else config.lr,
            "warmup_steps": steps // 25,
            "eval_every": steps,
            "batch_size": config.batch_size,
            "ema_decay": 0.0,
            "vocabulary": config.vocabulary,
            "image_size": SiglipModel.config_class.from_pretrained(start).vision_config.image_size,
            "render_sizes": [config.image_size],
            "max_shift": 0,
            "train_size": config.train_size,
            "val_size": config.val_size,
            "precision": config.precision,
            "device": config.device,
            "progress": False,
        }
        made = filled_config(siglip_pretrain.SiglipPretrainConfig, "siglip_pretrain_embedded", fields)
        name = "siglip-continued" if tune == "all" else "siglip-head"
        return train_once(siglip_pretrain.RECIPE, made, config.folder, name).folder

    def _with_tower(self, tower: Path, folder: Path) -> Path:
        """The SigLIP with another vision tower; its pooling head and text tower are the old ones."""
        if not (folder / "preprocessor_config.json").is_file():
            model = SiglipModel.from_pretrained(self.siglip, dtype=torch.float32)
            trained = SiglipVisionModel.from_pretrained(tower, dtype=torch.float32)
            model.vision_model.load_state_dict(trained.state_dict())
            model.save_pretrained(folder)
            load_tokenizer(self.siglip).save_pretrained(folder)
            AutoImageProcessor.from_pretrained(self.siglip).save_pretrained(folder)
        return folder

    def _retrieval(self, arm: str, seed: int, siglip: Path) -> list[dict[str, Any]]:
        """Recall with the head as it is, and with a re-tuned one."""
        rows = []
        for head, folder in (("as it is", siglip), ("re-tuned", None)):
            own = folder or self._siglip(siglip, seed, self.config.head_steps, "head")
            options = {"vocabulary": self.config.vocabulary, "image_size": self.config.image_size}
            where = {"kind": "retrieval", "arm": arm, "seed": seed, "head": head, "sha256": folder_hash(own)}

            def make(own: Path = own, options: dict[str, Any] = options) -> Mapping[str, Any]:
                size = self.config.retrieval_size
                data = load_suite_captions(split="test_composition", size=size, n_images=0, n_train=1, **options)
                run = evaluate(str(own), data, device=self.config.device, batch_size=self.config.batch_size)
                return {"scores": run.scores, "folder": str(own)}

            row = self.file.row({**where, **options, "size": self.config.retrieval_size}, make)
            assert row is not None
            rows.append(row)
        return rows


def _first(rows: Sequence[dict[str, Any]], encoder: str) -> list[dict[str, Any]]:
    """The rows of one encoder before all others, which are then held against it."""
    own, others = ([row for row in rows if (row["encoder"] == encoder) == is_own] for is_own in (True, False))
    return own + others


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints tables and verdicts."""
    config, as_json = parse_options(
        EncoderGainConfig, arguments, smoke=SMOKE_SIZES, description="what an encoder gains (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=220)
    base = Base.read(config.base)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seeds[0], device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "encoder_gain", facts)
    gain = EncoderGain(config, base, file, console.print)
    probed, retrieved = gain.run()
    against = {
        rival: differences(_first(probed, rival), gain.data)
        for rival in (UNTOUCHED, CONTINUED, RANDOM, PIXELS)
        if rival in config.arms
    }
    pairs = claims(against, base)
    recalls = [{"arm": row["arm"], "seed": row["seed"], "head": row["head"], **row["scores"]} for row in retrieved]
    found: dict[str, Any] = {
        "table": wide(probed, gain.data),
        "retrieval": recalls,
        "claims": pairs,
        "base": base.verdict,
    }
    found["verdicts"] = conclude(pairs, config.probes)
    file.conclude(**found)
    gains = [
        {**row, "arm": row["encoder"], "tier": row["factor"]}
        for row in against.get(UNTOUCHED, ())
        if "difference" in row and row["factor"] in ("never named", "sometimes named", "concept")
    ]
    plot = plot_gains(gains, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    print_rows(console, "what probes read (%)", found["table"])
    print_rows(
        console,
        "zero-shot retrieval (%)",
        [{name: 100 * v if isinstance(v, float) else v for name, v in row.items()} for row in recalls],
    )
    for pair in pairs:
        low, middle, high = (100 * pair[name] for name in ("low", "difference", "high"))
        asked = f"{pair['claim']}, {pair['probe']}: {pair['arm']} - {pair['rival']}"
        console.print(f"{asked}: {middle:+.1f} [{low:+.1f}, {high:+.1f}] points: {pair['verdict']}")
    for claim, verdict in found["verdicts"].items():
        console.print(f"{claim}: {verdict}")
    console.print(f"plot: {plot}")


if __name__ == "__main__":
    main()
