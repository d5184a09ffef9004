"""Which latent space is LaDiC best trained in? The embeddings, the middle, the top, or a BERT that knows nothing?

For each arm a codec is trained, whose round trip is printed at five noise levels, and then a LaDiC in its latents; a
codec that loses words is measured all the same. Beside them stands what neighbouring captions of each space have in
common. The claim: layer 3 is better than layer 0 and than layer 3 of a random BERT, in scene-F1 on test_composition,
each paired interval above 0.

    python -m vislex.benchmarks.ladic_latent_space             two cores, about ten minutes an arm
    python -m vislex.benchmarks.ladic_latent_space --smoke     does it run here? about a minute

The same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from rich.console import Console

from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.caption_models import VislexCaptioner, read_json
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.captioning import scorer_ids
from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.contenders import CONTENDERS, ways
from vislex.benchmarks.encoded import decode_and_score, encode
from vislex.benchmarks.experiment import LENGTHS, SMOKE, Experiment
from vislex.benchmarks.latent_arms import LATENT_ARMS, LatentArm, compare_arms, conclude, scene_scores
from vislex.benchmarks.latent_neighbours import compare_neighbours, mean_latents, nearest, telling_captions
from vislex.benchmarks.latent_plot import plot_latent_spaces
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trained_rows import best_of_each_seed, sweep, trained_row
from vislex.benchmarks.trainings import identity, train_once
from vislex.decoders.ladic.codec_loading import load_codec
from vislex.errors import did_you_mean
from vislex.provenance import collect
from vislex.recipes import ladic_codec
from vislex.recipes.ladic_codec import NOISE_LEVELS
from vislex.specs import VisionTokens

__all__ = ["LatentSpaceConfig", "LatentSpaces", "main"]

RESULTS = Path(__file__).parent / "results" / "ladic_latent_space.json"
STYLE = "lossy"
SMOKE_SIZES = SMOKE | {
    "n_neighbours": 20,
    "out": "runs/smoke/ladic_latent_space.json",
    "folder": "runs/smoke/ladic",
}


class LatentSpaceConfig(Experiment):
    """Options of ``ladic_latent_space``."""

    lrs: list[float] = Field([2e-3], min_length=1, description="learning rates that every arm tries")
    arms: list[str] = Field(list(LATENT_ARMS), min_length=1, description="latent spaces to compare")
    n_neighbours: int = Field(1000, ge=3, description="captions of val whose nearest neighbours are read")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: list[str]) -> list[str]:
        for name in arms:
            if name not in LATENT_ARMS:
                raise ValueError(f"no arm '{name}'{did_you_mean(name, LATENT_ARMS)} Arms are {', '.join(LATENT_ARMS)}")
        return arms


class LatentSpaces:
    """Codecs, captioners and their measurements, each made once.

    Args:
        config: Options.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: LatentSpaceConfig, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.file, self.log = config, file, log
        self._encoded: list[VisionTokens] = []

    def run(self) -> list[dict[str, Any]]:
        """Makes what is missing; gives all rows: kinds "codec", "training" and "captions"."""
        rows = []
        for name in self.config.arms:
            arm = LATENT_ARMS[name]
            codec = self._codec(arm)
            trained = list(sweep(functools.partial(self._train, arm, codec), self.config.seeds, self.config.lrs))
            rows += [codec, *trained, *(self._measured(arm, row) for row in best_of_each_seed(trained))]
        return rows

    @functools.cached_property
    def data(self) -> CaptionData:
        """Images and references of test_composition."""
        options = {"n_images": 0, "n_train": self.config.train_size, **self.config.data_options(STYLE)}
        return load_suite_captions(split="test_composition", size=self.config.size, **options)

    @functools.cached_property
    def _captions(self) -> list[str]:
        options = {"n_images": 0, "n_train": 1, **self.config.data_options(STYLE)}
        return telling_captions(
            load_suite_captions(split="val", size=self.config.n_neighbours, **options).record.references
        )

    def _codec(self, arm: LatentArm) -> dict[str, Any]:
        """Round trip and neighbours of an arm's codec, which is trained if it is missing."""
        config = self.config.codec_config(STYLE, least_accuracy=0.0, **arm.codec)
        where = {"kind": "codec", "arm": arm.name, "config": identity(config), "n": self.config.n_neighbours}

        def make() -> dict[str, Any]:
            made = train_once(ladic_codec.RECIPE, config, self.config.folder, "codec")
            figures = read_json(made.folder / "run.json")["figures"]
            codec = load_codec(made.folder)
            found = nearest(mean_latents(codec, self._captions, max_length=LENGTHS[STYLE]))
            return {
                "folder": str(made.folder),
                "seconds": figures["seconds"],
                "round trip": {f"{level:g}": figures[f"accuracy_{level:g}"] for level in NOISE_LEVELS},
                "neighbours": compare_neighbours(self._captions, found),
            }

        row = self._row(where, make)
        levels = ", ".join(f"{share:.1%} at {level}" for level, share in row["round trip"].items())
        self.log(f"{arm.name}: words that come back, by noise: {levels}")
        for kind, shared in row["neighbours"].items():
            self.log(
                f"{arm.name}: {kind} shared with the nearest caption {shared['nearest']:.3f}, with a random one "
                f"{shared['random']:.3f}, difference [{shared['low']:+.3f}, {shared['high']:+.3f}]"
            )
        return row

    def _train(self, arm: LatentArm, codec: Mapping[str, Any], seed: int, lr: float) -> dict[str, Any]:
        options = {**arm.options, "codec": codec["folder"]}
        config = self.config.caption("ladic", seed=seed, lr=lr, style=STYLE, decoder_options=options)
        name = f"{arm.name.replace(' ', '-')}-seed{seed}"
        where = {"arm": arm.name, "seed": seed, "lr": lr}
        row = trained_row(self.file, where, config, self.config.folder, name)
        self.log(f"{arm.name}, seed {seed}, lr {lr:g}: {row['seconds']:.0f} s, CIDEr-D {100 * row['val']:.1f} on val")
        return row

    def _measured(self, arm: LatentArm, trained: Mapping[str, Any]) -> dict[str, Any]:
        options = ways(CONTENDERS["ladic"])["8 steps"]
        where = {"kind": "captions", "arm": arm.name, "seed": trained["seed"], "training": trained["key"]}
        where |= {"options": options, "data": self.data.record.key, "scorers": scorer_ids()}

        def make() -> dict[str, Any]:
            model = open_caption_model(trained["folder"], device=self.config.device, dtype="float32")
            assert isinstance(model, VislexCaptioner)
            self._encoded = self._encoded or encode(model.captioner, self.data, self.config.batch_size)
            return decode_and_score(model.captioner, self._encoded, self.data, **options)

        row = self._row(where, make)
        scores = ", ".join(f"{name} {100 * row['scores'][name]:.1f}" for name in ("CIDEr-D", "scene-F1"))
        self.log(f"{arm.name}, seed {trained['seed']}: {scores}")
        return row

    def _row(self, where: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        row = self.file.row(where, make)
        assert row is not None
        return row


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each arm: scores (mean over seeds), round trip by noise, and what neighbours share."""
    entries = []
    for codec in (row for row in rows if row["kind"] == "codec"):
        own = [row for row in rows if row["kind"] == "captions" and row["arm"] == codec["arm"]]
        entry: dict[str, Any] = {"arm": codec["arm"], "seeds": len(own)}
        for name in ("CIDEr-D", "scene-F1"):
            entry[name] = sum(row["scores"][name] for row in own) / len(own)
        entry |= {f"noise {level}": share for level, share in codec["round trip"].items()}
        for kind, shared in codec["neighbours"].items():
            entry |= {f"{kind}, nearest": shared["nearest"], f"{kind}, random": shared["random"]}
        entries.append(entry)
    return entries


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints table and verdict."""
    config, as_json = parse_options(
        LatentSpaceConfig, arguments, smoke=SMOKE_SIZES, description="latent spaces of LaDiC (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=200)
    settings = config.model_dump(mode="json")
    provenance = collect(config=settings, seed=config.seeds[0], device=config.device)
    rows = LatentSpaces(config, RowFile(config.out, "ladic_latent_space", provenance), console.print).run()
    entries, pairs = table(rows), compare_arms(scene_scores(rows))
    found = {"table": entries, "pairs": pairs, "verdict": conclude(pairs)}
    RowFile(config.out, "ladic_latent_space", provenance).conclude(**found)
    plot = plot_latent_spaces(entries, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    shares = [{name: 100 * v if isinstance(v, float) else v for name, v in entry.items()} for entry in entries]
    print_rows(console, "latent spaces (x 100)", shares)
    for pair in pairs:
        low, middle, high = (100 * pair[name] for name in ("low", "difference", "high"))
        console.print(
            f"{pair['arm']} - {pair['rival']}: {middle:+.2f} [{low:+.2f}, {high:+.2f}] scene-F1 x 100: "
            f"{pair['verdict']}"
        )
    console.print(f"layer 3 is better than the embeddings and than a random BERT's layer 3: {found['verdict']}")
    console.print(f"plot: {plot}")


if __name__ == "__main__":
    main()
