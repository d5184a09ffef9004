"""What Back&Refine, consensus, guidance, the noise factor and the sampler are worth on a trained LaDiC.

Everything is compared at equal network evaluations (15 + 30 against plain 45; five candidates of 9 against 45; a guided
step counts two), on the same images with the same sampling seeds. Images are encoded once.

    python -m vislex.benchmarks.ladic_sampling --model FOLDER [--vocabulary core] [--size 1000] [--seeds 0,1,2]
        [--arms '*45*'] [--out FILE]

Each finished row is kept; the same command goes on where it was stopped. The claims stand in ``ladic_arms``; intervals
are of a paired bootstrap over sampling seeds and images.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vislex.benchmarks.caption_data import CaptionData, load_caption_data
from vislex.benchmarks.caption_models import folder_hash
from vislex.benchmarks.captioning import scorer_ids
from vislex.benchmarks.encoded import decode_and_score, encode
from vislex.benchmarks.ladic_arms import ARMS, CLAIMS, SAMPLING_NOISE_FACTOR, judge
from vislex.benchmarks.report_plots import PALETTE
from vislex.benchmarks.row_file import RowFile
from vislex.captioner import Captioner
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.errors import ConfigError, did_you_mean
from vislex.provenance import collect
from vislex.shipped import model_folder
from vislex.specs import VisionTokens

__all__ = ["chosen_arms", "main", "measure", "plot_quality"]

RESULTS = Path(__file__).parent / "results" / "ladic_sampling.json"


@contextmanager
def _noise_factor(decoder: LadicDecoder, factor: float | None) -> Iterator[None]:
    own = decoder.sampling_schedule
    if factor is not None:
        decoder.sampling_schedule = own.with_noise_factor(factor)
    try:
        yield
    finally:
        decoder.sampling_schedule = own


def chosen_arms(pattern: str) -> dict[str, dict[str, Any]]:
    """The arms that a pattern names, or with "claims" those of the claims, with their options.

    Raises:
        ConfigError: If there is none.
    """
    if pattern == "claims":
        return {name: ARMS[name] for name in dict.fromkeys(name for c in CLAIMS for name in (c.arm, c.rival))}
    arms = {name: options for name, options in ARMS.items() if fnmatch.fnmatchcase(name, pattern)}
    if not arms:
        raise ConfigError(f"no arm is named '{pattern}'{did_you_mean(pattern, ARMS)} See ladic_arms.ARMS")
    return arms


def measure(
    captioner: Captioner, batches: Sequence[VisionTokens], data: CaptionData, options: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Captions all images with one arm and scores them.

    Args:
        captioner: Whose decoder is LaDiC.
        batches: Of ``encode``.
        data: Images and references.
        options: Of ``generate``, and ``sampling_noise_factor``.
        seed: Of the noise.

    Returns:
        "scores", "per_image", mean "evaluations" a caption, "seconds" of the decoding.
    """
    decoder = captioner.decoder
    assert isinstance(decoder, LadicDecoder)
    given = {name: value for name, value in options.items() if name != SAMPLING_NOISE_FACTOR}
    with _noise_factor(decoder, options.get(SAMPLING_NOISE_FACTOR)):
        return decode_and_score(captioner, batches, data, seed=seed, **given)


def plot_quality(rows: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Draws CIDEr-D against evaluations, one line a sampler, guided ones dashed, other arms as marks: PNG and SVG."""
    from matplotlib.figure import Figure

    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points.setdefault(row["arm"], []).append((row["evaluations"], 100 * row["scores"]["CIDEr-D"]))
    middle = {arm: tuple(np.mean(values, axis=0)) for arm, values in points.items()}
    figure = Figure(figsize=(8.4, 5.0), layout="constrained")
    axes = figure.subplots()
    curves: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    others = []
    for arm, point in middle.items():
        words = arm.split()
        if len(words) == 2 or words[2:] == ["guided"]:
            curves.setdefault((words[0], len(words) == 3), []).append(point)  # type: ignore[arg-type]
        else:
            others.append((arm, point))
    samplers = sorted({sampler for sampler, _ in curves})
    for (sampler, guided), values in sorted(curves.items()):
        axes.plot(
            *zip(*sorted(values), strict=True),
            color=PALETTE[samplers.index(sampler) % len(PALETTE)],
            linestyle="--" if guided else "-",
            marker="o",
            markersize=4,
            label=f"{sampler}, guided" if guided else sampler,
        )
    for index, (arm, point) in enumerate(others):
        axes.plot(*point, "sD^vPX*"[index % 7], color=PALETTE[(index + 3) % len(PALETTE)], linestyle="", label=arm)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("network evaluations a caption (a guided step counts two)")
    axes.set_ylabel("CIDEr-D x 100")
    axes.grid(alpha=0.2)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(ending) for ending in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=120)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, prints the verdicts and writes them with a plot.

    Raises:
        ConfigError: If the model is no LaDiC captioner, or no arm has the name.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="folder or shipped name of a captioner whose decoder is LaDiC")
    parser.add_argument("--data", default="openmoji", help="a suite, or SOURCE:FOLDER with photographs")
    parser.add_argument("--vocabulary", default=None, help="vocabulary of the suite; its default one if not given")
    parser.add_argument("--split", default="test_composition")
    parser.add_argument("--size", type=int, default=1000, help="images")
    parser.add_argument("--seeds", default="0", help="of the sampling")
    parser.add_argument("--arms", default="*", help="pattern of the arms to run, or 'claims': those of the claims")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file; the plots stand beside it")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    arms = chosen_arms(given.arms)
    folder = model_folder(given.model)
    captioner = Captioner.from_pretrained(folder).eval()
    if not isinstance(captioner.decoder, LadicDecoder):
        raise ConfigError(
            f"the decoder of '{given.model}' is {type(captioner.decoder).__name__}; give a LaDiC captioner"
        )
    extra = {} if given.vocabulary is None else {"vocabulary": given.vocabulary}
    data = load_caption_data(given.data, split=given.split, size=given.size, n_images=1, **extra)
    shared = {"model": folder_hash(folder), "data": data.record.key, "scorers": scorer_ids()}
    facts: dict[str, Any] = {"device": str(captioner.device), "dtype": str(captioner.dtype).removeprefix("torch.")}
    facts |= {"config": vars(given) | {"out": str(given.out)}}
    file = RowFile(given.out, "ladic_sampling", collect(**facts))
    batches: list[VisionTokens] = []
    rows = []

    def make(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
        batches.extend([] if batches else encode(captioner, data, given.batch_size))
        return measure(captioner, batches, data, options, seed)

    for seed in map(int, given.seeds.split(",")):
        for name, options in arms.items():
            identity = {**shared, "arm": name, "options": options, "seed": seed, "n": len(data)}
            row = file.row(identity, lambda options=options, seed=seed: make(options, seed))  # type: ignore[misc]
            assert row is not None
            rows.append(row)
            console.print(
                f"{name} (seed {seed}): CIDEr-D {100 * row['scores']['CIDEr-D']:.2f}, "
                f"{row['evaluations']:.1f} evaluations, {1000 * row['seconds'] / len(data):.1f} ms a caption"
            )
    claims = judge(rows)
    file.conclude(claims=claims)
    for claim in claims:
        low, high = (100 * claim["interval"][end] for end in ("low", "high"))
        share = "" if claim["share"] == 1 else f"{claim['share']:g} x "
        console.print(
            f"{claim['claim']}: {claim['arm']} - {share}{claim['rival']} = "
            f"{100 * claim['interval']['difference']:+.2f} [{low:+.2f}, {high:+.2f}] CIDEr-D x 100 at "
            f"{claim['evaluations'][0]:.1f} and {claim['evaluations'][1]:.1f} evaluations: {claim['verdict']}"
        )
    for path in plot_quality(rows, given.out.with_suffix("")):
        console.print(f"plot: {path}")


if __name__ == "__main__":
    main()
