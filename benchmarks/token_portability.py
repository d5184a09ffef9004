"""Do ViLex's tokens belong to the text encoder that they are written for, or to the denoiser that taught them?

Tokens that were trained through a denoiser A are drawn by a denoiser B that never saw them: another network with other
weights, trained on captions alone behind the same frozen text encoder. Both draw the same images from the same start
noise, told by 1 to n tokens, by the true caption and by an empty prompt, and the reader reads all of them. The claim:
with all tokens B keeps at least 80 % of A's accuracy over all factors; the quotient's interval is paired over images.
Beside it stand the quotient at fewer tokens, the one of the true caption (how well B draws at all), and the one of what
both read above the empty prompt, which guesses cannot lift.

    python -m vislex.benchmarks.token_portability              two cores, about two hours, behind vilex_base
    python -m vislex.benchmarks.token_portability --smoke      does it run here? seconds, behind vilex_base --smoke

The model is the one with TailDrop that ``vilex_tokens`` trains, or ``--model``; B is trained unless ``--other`` names
one. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.options import ascending, parse_options
from vislex.benchmarks.reconstruction import (
    SCORERS,
    MeasuredRung,
    ReconstructionBench,
    Rung,
    Told,
    load_scenes,
    load_tools,
    open_model,
    references,
)
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.token_claims import EMPTY, TAIL_DROP
from vislex.benchmarks.trainings import filled_config, train_once
from vislex.benchmarks.vilex_experiment import SMOKE, Base, TokenExperiment, judge, tier_mean
from vislex.benchmarks.vilex_plots import plot_portability
from vislex.data import openmoji
from vislex.diffusion.t2i import TextToImage, load_t2i
from vislex.errors import DataError
from vislex.metrics.factors import FACTORS
from vislex.metrics.statistics import paired_ratio
from vislex.modules.digest import weights_digest
from vislex.provenance import collect
from vislex.recipes import t2i_pretrain, vilex_pretrain

__all__ = ["LEAST_KEPT", "PortabilityConfig", "claims", "main"]

RESULTS = Path(__file__).parent / "results" / "token_portability.json"
LEAST_KEPT = 0.8  # of A's accuracy, fixed before the runs
CLAIM = "another denoiser reads the tokens"
A, B = "A, which taught the tokens", "B, which never saw them"
SMOKE_SIZES = SMOKE | {
    "encoder": "siglip-tiny",
    "budgets": "[1, 4]",
    "size": 8,
    "num_inference_steps": 2,
    "extractor": "siglip-tiny",
    "denoiser": "{num_layers: 1, num_attention_heads: 1, attention_head_dim: 8, patch_size: 2}",
    "out": "runs/smoke/token_portability.json",
}
Row = Mapping[str, Any]


class PortabilityConfig(TokenExperiment):
    """Options of ``token_portability``."""

    model: Path | None = Field(None, description="folder of a ViLex model; none takes that of vilex_tokens")
    other: Path | None = Field(None, description="folder of denoiser B with A's text encoder; none trains one")
    denoiser: t2i_pretrain.DenoiserSizes = Field(
        t2i_pretrain.DenoiserSizes(num_layers=4, num_attention_heads=8, attention_head_dim=24, patch_size=2),
        description="sizes of a denoiser B that is trained",
    )
    budgets: list[int] = Field([1, 4, 16], min_length=1, description="numbers of tokens; the last decides")
    split: str = Field("test_composition", description="split of the images")
    size: int = Field(1000, ge=2, description="images that are drawn and read")
    num_inference_steps: int = Field(30, ge=1, description="of the drawing")
    guidance_scale: float = Field(1.0, ge=0, description="of the drawing; 1 is none")
    extractor: str = Field("efficientnet-lite0", description="of features, on which no claim rests")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, budgets: list[int]) -> list[int]:
        return ascending("budgets", budgets, 1)


class Portability:
    """The tokens' model behind each denoiser, and what is read from the drawings of both.

    Args:
        config: Options.
        base: Reader, encoder and text-to-image model A.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: PortabilityConfig, base: Base, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.base, self.file, self.log = config, base, file, log

    def run(self) -> list[dict[str, Any]]:
        """Makes what is missing: a row for each denoiser and each way to tell it of the images.

        Raises:
            DataError: If B has another text encoder than A.
        """
        config, folder = self.config, self._model()
        models = {A: open_model(folder, config.device), B: open_model(folder, config.device)}
        models[B].attach(self._other(models[A].t2i), other=True)
        _check_text(models[A].t2i, models[B].t2i)
        names = ("split", "size", "num_inference_steps", "guidance_scale", "extractor", "vocabulary")
        values = {name: getattr(config, name) for name in names}
        bench = ReconstructionBench(reader=self.base.reader, loss_images=config.size, loss_draws=1, **values)
        scenes, tools = load_scenes(bench, models[A].t2i.image_size), load_tools(bench)
        digest, rows = weights_digest(models[A]), []
        for denoiser, model in models.items():
            told = [Rung(_told(k), k, Told(model, scenes, k)) for k in config.budgets]
            for rung in (*references(model.t2i, scenes)[1:], *told):
                identity = {
                    "denoiser": denoiser,
                    "told": rung.name,
                    "tokens": rung.tokens,
                    "model": digest,
                    "t2i": model.t2i.sha256,
                    "data": scenes.key,
                    "bench": values | {"reader": None if tools.reader is None else weights_digest(tools.reader)},
                    "batch_size": config.batch_size,
                    "seed": config.seed,
                    "scorers": SCORERS,
                }
                options = (bench, scenes, tools, config.batch_size, config.seed)
                row = self.file.row(identity, MeasuredRung(model.t2i, model.objective, rung, *options))
                assert row is not None
                self.log(f"{denoiser}: {rung.name}: {tier_mean(row['per_image'], tuple(FACTORS)).mean():.1%} read")
                rows.append(row)
        return rows

    def _model(self) -> str:
        if self.config.model is not None:
            return str(self.config.model)
        config = self.config.vilex(self.base)
        return str(train_once(vilex_pretrain.RECIPE, config, self.config.folder, TAIL_DROP).folder)

    def _other(self, first: TextToImage) -> TextToImage:
        """Denoiser B, trained on captions behind A's text encoder, in the latents of A's autoencoder."""
        config = self.config
        if config.other is not None:
            return load_t2i(config.other)
        assert first.folder is not None
        names = ("budget", "vocabulary", "precision", "device")
        fields: dict[str, Any] = {name: getattr(config, name) for name in names}
        fields |= {"seed": config.seed + 1, "progress": False, "reader": self.base.reader}
        fields |= {"image_size": first.image_size, "denoiser": config.denoiser.model_dump()}
        fields["text_from"] = str(first.folder)
        fields["autoencoder"] = None if first.vae is None else {"folder": str(first.folder / "vae")}
        recipe = filled_config(t2i_pretrain.T2IPretrainConfig, "t2i_pretrain_embedded", fields)
        made = train_once(t2i_pretrain.RECIPE, recipe, config.folder, "other-denoiser")
        self.log(f"denoiser B: {made.folder}" + ("" if made.was_there else f", trained in {made.seconds:.0f} s"))
        return load_t2i(made.folder)


def _told(k: int) -> str:
    return f"{k} tokens"


def _check_text(first: TextToImage, second: TextToImage) -> None:
    for one, other in zip(first.texts, second.texts, strict=True):
        same = weights_digest(one.model) == weights_digest(other.model)
        if not same or one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
            raise DataError(
                "denoiser B reads its prompts by another text encoder than denoiser A; train one behind the same by "
                "'vislex train t2i_pretrain text_from=FOLDER_OF_A'"
            )


def claims(rows: Sequence[Row], base: Base) -> list[dict[str, Any]]:
    """What B keeps of A's accuracy, told in each way; with all tokens it decides.

    Args:
        rows: "denoiser", "told", "tokens" and "per_image" with every factor.
        base: The parts; on parts that cannot be tested every verdict says so.
    """
    read = {(row["denoiser"], row["told"]): tier_mean(row["per_image"], tuple(FACTORS)) for row in rows}
    most = _told(max(row["tokens"] for row in rows if row["tokens"] is not None))
    found = []
    for told in dict.fromkeys(row["told"] for row in rows):
        if told == EMPTY:
            continue
        found.append(_kept(f"all factors, {told}", read[B, told], read[A, told], decides=told == most))
        if told == most:
            above = (read[side, told] - read[side, EMPTY] for side in (B, A))
            found.append(_kept(f"all factors above the empty prompt, {told}", *above, decides=False))
    return [{**entry, "verdict": base.judged(entry["verdict"])} for entry in found]


def _kept(about: str, ours: np.ndarray, theirs: np.ndarray, *, decides: bool) -> dict[str, Any]:
    entry = {"claim": CLAIM, "about": f"{about}: B / A", "margin": LEAST_KEPT, "decides": decides, "n": len(ours)}
    try:
        kept = paired_ratio(ours, theirs)
    except DataError as error:  # A itself reads nothing above chance
        return {**entry, "verdict": "inconclusive", "reason": str(error)}
    interval = {"ratio": kept.ratio, "low": kept.low, "high": kept.high}
    return {**entry, **interval, "verdict": judge(kept.low, kept.high, LEAST_KEPT)}


def table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line a row: what is read of each factor (shares), and the means over all and over the never-named ones."""
    lines = []
    for row in rows:
        line = {"denoiser": row["denoiser"], "told": row["told"], "tokens": row["tokens"]}
        line |= {"all": float(tier_mean(row["per_image"], tuple(FACTORS)).mean())}
        line |= {"never named": float(tier_mean(row["per_image"]).mean())}
        lines.append(line | {name: row["scores"][name] for name in FACTORS})
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints table and verdict."""
    config, as_json = parse_options(
        PortabilityConfig, arguments, smoke=SMOKE_SIZES, description="tokens behind another denoiser (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=220)
    base = Base.read(config.base)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seed, device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "token_portability", facts)
    rows = Portability(config, base, file, console.print).run()
    lines, pairs = table(rows), claims(rows, base)
    decisive = next(pair for pair in pairs if pair["decides"])
    found = {"table": lines, "claims": pairs, "base": base.verdict, "verdict": decisive["verdict"]}
    file.conclude(**found)
    plot = plot_portability(lines, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    print_rows(console, "what the reader reads (%)", list(_in_percent(lines)))
    for pair in pairs:
        interval = f"{pair['ratio']:.3f} [{pair['low']:.3f}, {pair['high']:.3f}]" if "ratio" in pair else "no quotient"
        console.print(f"{pair['about']}: {interval}, at least {pair['margin']:g}: {pair['verdict']}")
    console.print(f"{CLAIM}: {found['verdict']}")
    console.print(f"plot: {plot}")


def _in_percent(lines: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield {name: 100 * value if isinstance(value, float) else value for name, value in line.items()}


if __name__ == "__main__":
    main()
