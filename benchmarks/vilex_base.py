"""Can claims on ViLex be tested here? The reader reads, and the frozen text-to-image model draws what it is told.

Trains the reader and the text-to-image model, or takes those that are given, and judges both: the reader must name at
least 97 % of the objects in real scenes of test_composition; in images drawn from dense captions of one object it must
read at least 60 % of the names and 90 % of the backgrounds. Below that, claims on ViLex are "not testable", not false:
the other experiments (vilex_tokens, encoder_gain, text_free_guidance) read parts and verdict from this one's file.

    python -m vislex.benchmarks.vilex_base                      two cores, about two hours with both trainings
    python -m vislex.benchmarks.vilex_base --reader runs/reader --t2i runs/t2i      with trained ones, minutes
    python -m vislex.benchmarks.vilex_base --smoke              does it run here? seconds

The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trainings import filled_config, train_once
from vislex.benchmarks.verdicts import NOT_TESTABLE, TESTABLE
from vislex.benchmarks.vilex_experiment import BASE_RESULTS, mean_interval
from vislex.benchmarks.vilex_plots import plot_thresholds
from vislex.config import Config
from vislex.data import openmoji
from vislex.data.sources import load_suite
from vislex.diffusion.t2i import load_t2i
from vislex.encoders.factory import create_encoder
from vislex.hardware import resolve_device
from vislex.metrics.factors import FACTOR_ACCURACY, score_factors_per_image
from vislex.metrics.image_features import as_uint8
from vislex.metrics.reader import load_reader
from vislex.modules.digest import weights_digest
from vislex.provenance import collect
from vislex.recipes import reader as reader_recipe
from vislex.recipes import t2i_pretrain
from vislex.recipes.obedience import draw_images, obedience, single_object_prompts

__all__ = ["THRESHOLDS", "ViLexBaseConfig", "conclude", "main", "measure"]

# What is measured -> factor -> least share, fixed before the runs.
REAL, DRAWN = "real scenes", "drawn scenes"
THRESHOLDS: dict[str, dict[str, float]] = {REAL: {"concept": 0.97}, DRAWN: {"concept": 0.60, "background": 0.90}}
SPLIT = "test_composition"
SMOKE_SIZES: dict[str, Any] = {
    "budget": "smoke",
    "reader_size": 8,
    "size": 4,
    "num_inference_steps": 2,
    "image_size": 24,
    "precision": "fp32",
    "denoiser": "{num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 2}",
    "text": "{d_model: 16, num_layers: 1, num_heads: 2, d_kv: 8, d_ff: 32}",
    "network": "{stem_channels: [8, 8], hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}",
    "out": "runs/smoke/vilex_base.json",
    "folder": "runs/smoke/vilex",
}


class ViLexBaseConfig(Config):
    """Options of ``vilex_base``."""

    reader: str | None = Field(None, description="folder or shipped name of a reader; none trains one")
    encoder: str = Field("siglip-tiny", description="encoder of the experiments, with pretrained weights")
    t2i: str | None = Field(None, description="folder or name of a text-to-image model; none trains one")
    budget: Literal["smoke", "demo", "standard", "long"] = Field("long", description="of both trainings")
    vocabulary: Literal["core", "default", "large"] = Field("core", description="nouns: 100, 320 or all")
    image_size: int = Field(48, ge=16, description="side in pixels of the text-to-image model that is trained")
    network: reader_recipe.ReaderSizes = Field(reader_recipe.ReaderSizes(), description="sizes of the reader")
    denoiser: t2i_pretrain.DenoiserSizes | None = Field(None, description="sizes of the denoiser; none: the recipe's")
    text: t2i_pretrain.TextSizes | None = Field(None, description="sizes of its text encoder; none: the recipe's")
    seed: int = Field(0, ge=0, description="of the trainings and of the start noise")
    reader_size: int = Field(2000, ge=2, description="real scenes that are read")
    size: int = Field(2000, ge=2, description="images that are drawn and read")
    guidance_scale: float = Field(3.0, ge=1, description="of the drawing; chosen on val")
    num_inference_steps: int = Field(30, ge=1, description="of the drawing")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="of the trainings")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    folder: Path = Field(Path("runs/vilex"), description="folder of the trainings")
    out: Path = Field(BASE_RESULTS, description="result file; the plot stands beside it")


def measure(config: ViLexBaseConfig, file: RowFile, log: Callable[[str], None]) -> tuple[dict[str, str], list[Any]]:
    """Trains what is missing and measures it.

    Returns:
        The parts by their names, and one row of real and one of drawn scenes.
    """
    reader_name = config.reader or _train(config, "reader", None, log)
    instrument = load_reader(reader_name)
    t2i_name = config.t2i or _train(config, "t2i", reader_name, log)
    create_encoder(config.encoder, pretrained=True)  # refused here rather than in the middle of what follows
    digest = weights_digest(instrument)
    shared = {"reader": digest, "vocabulary": config.vocabulary, "scorer": FACTOR_ACCURACY.id}

    def real() -> dict[str, Any]:
        side = instrument.config.image_size
        rows = load_suite(
            "openmoji", split=SPLIT, size=config.reader_size, vocabulary=config.vocabulary, image_size=max(side, 16)
        )
        factors = [json.loads(text) for text in rows.with_format(None)["factors"]]
        return _scored(score_factors_per_image(instrument.read([row["image"] for row in rows]), factors))

    def drawn() -> dict[str, Any]:
        prompts = single_object_prompts(
            config.size, split=SPLIT, vocabulary=config.vocabulary, image_size=max(t2i.image_size, 16)
        )
        options = {"guidance_scale": config.guidance_scale, "num_inference_steps": config.num_inference_steps}
        images = draw_images(t2i, prompts.texts, seed=config.seed, **options)  # type: ignore[arg-type]
        return _scored(obedience(instrument, as_uint8(images), prompts))

    t2i = load_t2i(t2i_name).to(resolve_device(config.device))
    told = {name: getattr(config, name) for name in ("size", "guidance_scale", "num_inference_steps", "seed")}
    rows = [
        file.row({"kind": REAL, **shared, "size": config.reader_size, "split": SPLIT}, real),
        file.row({"kind": DRAWN, **shared, **told, "split": SPLIT, "t2i": t2i.sha256}, drawn),
    ]
    parts = {"reader": str(reader_name), "encoder": config.encoder, "t2i": str(t2i_name)}
    return parts, rows


def conclude(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Every threshold beside what was measured, and the verdict on all: "testable" or "not testable".

    The measured share decides; its interval says how far another draw of scenes might lie.
    """
    checks = []
    for row in rows:
        for factor, least in THRESHOLDS[row["kind"]].items():
            interval = mean_interval(row["per_image"][factor])
            share = interval.difference
            check = {"measured": row["kind"], "factor": factor, "least": least, "share": share, "low": interval.low}
            reached = "reached" if share >= least else "not reached"
            checks.append({**check, "high": interval.high, "n": interval.n, "verdict": reached})
    return checks, TESTABLE if all(check["verdict"] == "reached" for check in checks) else NOT_TESTABLE


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints table and verdict."""
    config, as_json = parse_options(
        ViLexBaseConfig, arguments, smoke=SMOKE_SIZES, description="the base of claims on ViLex (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=200)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seed, device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "vilex_base", facts)
    parts, rows = measure(config, file, console.print)
    checks, found = conclude(rows)
    concluded = {"parts": parts, "checks": checks, "verdict": found}
    file.conclude(**concluded)
    plot = plot_thresholds(checks, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(concluded))
        return
    shown = [{"scenes": row["kind"], **{name: 100 * v for name, v in row["scores"].items()}} for row in rows]
    print_rows(console, "what the reader reads (%)", [{**dict.fromkeys(shown[1]), **row} for row in reversed(shown)])
    percent = ("least", "share", "low", "high")
    print_rows(console, "thresholds (%)", [{n: 100 * v if n in percent else v for n, v in c.items()} for c in checks])
    console.print(f"claims on ViLex are {found} on {parts['t2i']}, read by {parts['reader']}")
    console.print(f"plot: {plot}")


def _train(config: ViLexBaseConfig, what: str, reader_name: str | None, log: Callable[[str], None]) -> str:
    values: dict[str, Any] = {name: getattr(config, name) for name in ("budget", "seed", "vocabulary", "precision")}
    values |= {"device": config.device, "progress": False, "image_size": config.image_size}
    if what == "reader":
        fields = {**values, "network": config.network.model_dump()}
        made = train_once(
            reader_recipe.RECIPE,
            filled_config(reader_recipe.ReaderRecipeConfig, "reader_embedded", fields),
            config.folder,
            what,
        )
    else:
        sizes = {"denoiser": config.denoiser, "text": config.text}
        fields = {**values, "reader": reader_name}
        fields |= {name: given.model_dump() for name, given in sizes.items() if given is not None}
        made = train_once(
            t2i_pretrain.RECIPE,
            filled_config(t2i_pretrain.T2IPretrainConfig, "t2i_pretrain_embedded", fields),
            config.folder,
            what,
        )
    log(f"{what}: {made.folder}" + ("" if made.was_there else f", trained in {made.seconds:.0f} s"))
    return str(made.folder)


def _scored(per_image: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "scores": {name: float(values.mean()) for name, values in per_image.items()},
        "per_image": {name: [round(float(value), 4) for value in values] for name, values in per_image.items()},
    }


if __name__ == "__main__":
    main()
