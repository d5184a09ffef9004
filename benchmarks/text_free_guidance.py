"""Text-free guidance: the more the text counts, the better is it obeyed, and the less is the subject kept.

Subjects are scenes with one object. Each is drawn again from its tokens together with prompts that change one nameable
factor (the background, the position, the size) and do not name it, at every weight w of the text and from the same
start noise. The reader says whether the change was made (compliance) and whether concept, artist and hue are still the
subject's (identity). Beside them stand drawings from a text alone that names the concept. The claims: compliance rises
and identity falls with w; each is a slope over w, paired over subjects, whose interval excludes 0.

    python -m vislex.benchmarks.text_free_guidance              two cores, about half an hour, behind vilex_base
    python -m vislex.benchmarks.text_free_guidance --smoke      does it run here? seconds, behind vilex_base --smoke

The model is the one with TailDrop that ``vilex_tokens`` trains, or ``--model``. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.options import ascending, parse_options
from vislex.benchmarks.reconstruction import open_model
from vislex.benchmarks.results import content_key
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.token_claims import TAIL_DROP
from vislex.benchmarks.trainings import train_once
from vislex.benchmarks.verdicts import all_of
from vislex.benchmarks.vilex_experiment import SMOKE, Base, TokenExperiment, interval_values, mean_interval
from vislex.benchmarks.vilex_plots import plot_guidance
from vislex.data import openmoji
from vislex.data.openmoji.draws import Draws
from vislex.data.openmoji.lexicon import POSITION_PHRASES, SIZE_WORDS, article
from vislex.errors import DataError
from vislex.metrics.factors import FACTOR_ACCURACY, score_factors_per_image
from vislex.metrics.image_features import as_uint8
from vislex.metrics.reader import load_reader
from vislex.metrics.reader_targets import BACKGROUNDS, POSITIONS, SIZES
from vislex.modules.digest import weights_digest
from vislex.provenance import collect
from vislex.recipes import vilex_pretrain
from vislex.recipes.obedience import Prompts, draw_images, single_object_prompts
from vislex.vilex import ViLex

__all__ = ["GuidanceConfig", "Task", "claims", "conclude", "main", "slopes", "tasks"]

RESULTS = Path(__file__).parent / "results" / "text_free_guidance.json"
IDENTITY = ("concept", "artist", "hue")  # what no prompt speaks of
CHANGED = ("background", "background", "background", "position", "position", "size")  # one prompt each
RISES, FALLS = "compliance rises with w", "identity falls with w"
SMOKE_SIZES = SMOKE | {
    "encoder": "siglip-tiny",
    "subjects": 2,
    "weights": "[0.0, 1.5]",
    "num_inference_steps": 2,
    "out": "runs/smoke/text_free_guidance.json",
}
Row = Mapping[str, Any]


class GuidanceConfig(TokenExperiment):
    """Options of ``text_free_guidance``."""

    model: Path | None = Field(None, description="folder of a ViLex model; none takes that of vilex_tokens")
    tokens: int | None = Field(None, ge=1, description="tokens of a subject; none takes all")
    weights: list[float] = Field([0.0, 0.5, 1.0, 1.5, 2.0, 3.0], min_length=2, description="weights w of the text")
    split: str = Field("test_composition", description="split of the subjects")
    subjects: int = Field(50, ge=2, description="scenes with one object, each with six prompts")
    guidance_scale: float = Field(1.0, ge=0, description="by the image against the empty prompt; 1 is none")
    num_inference_steps: int = Field(30, ge=1, description="of the drawing")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @field_validator("weights")
    @classmethod
    def _ascending(cls, weights: list[float]) -> list[float]:
        return ascending("weights", weights, 0)


@dataclass(frozen=True)
class Task:
    """A subject and a change that is asked of it.

    Attributes:
        subject: Its number.
        factor: What is to change.
        prompt: The request, without the name of what lies there.
        named: A text that names it too, for drawing without any image.
        wanted: The factor record of the subject after the change.
    """

    subject: int
    factor: str
    prompt: str
    named: str
    wanted: dict[str, Any]


def tasks(prompts: Prompts) -> list[Task]:
    """Six tasks for each subject; what is asked for is never what is there already."""
    made = []
    for subject, record in enumerate(prompts.factors):
        draws = Draws("text-free guidance", index=subject)
        item = record["objects"][0]
        for factor in dict.fromkeys(CHANGED):
            there = record["background"] if factor == "background" else item[factor]
            options = {"background": BACKGROUNDS, "position": POSITIONS, "size": SIZES}[factor]
            others = [value for value in options if value != there]
            draws.shuffle(others)
            for value in others[: CHANGED.count(factor)]:
                wanted = {**record, "objects": [dict(item)]}
                if factor == "background":
                    wanted["background"] = value
                else:
                    wanted["objects"][0][factor] = value
                made.append(Task(subject, factor, *_texts(factor, value, item["concept"]), wanted))
    return made


def _texts(factor: str, value: str, concept: str) -> tuple[str, str]:
    """A request in the words of the suite's captions, and the same with the name."""
    if factor == "size":
        word = SIZE_WORDS[value][0]
        return word, f"{article(word)} {word} {concept}"
    phrase = f"on a {value} background" if factor == "background" else POSITION_PHRASES[value][0]
    return phrase, f"{article(concept)} {concept} {phrase}"


def slopes(weights: Sequence[float], scores: np.ndarray, subjects: Sequence[int]) -> np.ndarray:
    """Least-squares slope of a score over w of each subject, float64[S].

    Args:
        weights: W weights.
        scores: float[W, T] of T tasks.
        subjects: Subject of each task; its tasks are averaged.
    """
    centred = np.asarray(weights) - np.mean(weights)
    by_task = centred @ scores / (centred @ centred)
    owner = np.asarray(subjects)
    return np.array([by_task[owner == subject].mean() for subject in sorted(set(subjects))])


def claims(rows: Sequence[Row], base: Base) -> list[dict[str, Any]]:
    """Both slopes with their intervals and verdicts.

    Args:
        rows: One a weight: "w", "subjects" and "per_image" with "compliance" and "identity"; others have w None.
        base: The parts; on parts that cannot be tested every verdict says so.
    """
    told = sorted((row for row in rows if row["w"] is not None), key=lambda row: row["w"])
    found = []
    for claim, name, sign in ((RISES, "compliance", 1.0), (FALLS, "identity", -1.0)):
        scores = np.array([row["per_image"][name] for row in told])
        values = sign * slopes([row["w"] for row in told], scores, told[0]["subjects"])
        entry = {"claim": claim, "about": f"{name} for each unit of w", **interval_values(mean_interval(values))}
        found.append({**entry, "verdict": base.judged(entry["verdict"])})
    return found


def conclude(found: Sequence[Row]) -> str:
    """Text-free guidance is a dial if both slopes are what they should be."""
    return all_of(entry["verdict"] for entry in found)


class Guidance:
    """The model, the tasks, and their drawings at every weight.

    Args:
        config: Options.
        base: Reader and text-to-image model.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: GuidanceConfig, base: Base, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.base, self.file, self.log = config, base, file, log

    def run(self) -> list[dict[str, Any]]:
        """Makes what is missing: a row for each weight, and one for the texts alone."""
        config, model, reader = self.config, self._model(), load_reader(self.base.reader)
        side = max(model.t2i.image_size, 16)
        options: dict[str, Any] = {"split": config.split, "vocabulary": config.vocabulary, "image_size": side}
        subjects = single_object_prompts(config.subjects, **options)
        if len(subjects.factors) < config.subjects:
            raise DataError(f"{len(subjects.factors)} scenes with one object are not {config.subjects}; ask for fewer")
        asked = tasks(subjects)
        images = [subjects.images[task.subject] for task in asked]
        drawing = {"num_inference_steps": config.num_inference_steps, "seed": config.seed}
        shared = {
            "model": weights_digest(model),
            "t2i": model.t2i.sha256,
            "reader": weights_digest(reader),
            "tasks": content_key({"tasks": [[task.prompt, task.named, task.wanted] for task in asked]}),
            "tokens": config.tokens,
            "guidance_scale": config.guidance_scale,
            "scorer": FACTOR_ACCURACY.id,
            **drawing,
        }

        def draw(w: float | None) -> Sequence[Any]:
            if w is None:
                texts = [task.named for task in asked]
                return as_uint8(
                    draw_images(model.t2i, texts, guidance_scale=max(1.0, config.guidance_scale), **drawing)
                )
            told: dict[str, Any] = {"prompt": [task.prompt for task in asked], "tfg": w, "n_tokens": config.tokens}
            told |= {"guidance_scale": config.guidance_scale, "batch_size": config.batch_size}
            return model.reconstruct(images, **told, **drawing)

        rows = []
        for w in (*config.weights, None):

            def make(w: float | None = w) -> Mapping[str, Any]:
                return _scored(reader.read(draw(w)), asked)

            row = self.file.row({"w": w, **shared}, make)
            assert row is not None
            name = "text alone" if w is None else f"w = {w:g}"
            scores = row["scores"]
            self.log(f"{name}: compliance {scores['compliance']:.1%}, identity {scores['identity']:.1%}")
            rows.append(row)
        return rows

    def _model(self) -> ViLex:
        folder = self.config.model
        if folder is None:
            made = train_once(vilex_pretrain.RECIPE, self.config.vilex(self.base), self.config.folder, TAIL_DROP)
            folder = made.folder
        return open_model(str(folder), self.config.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws and measures what is missing, and prints the curve and the verdict."""
    config, as_json = parse_options(
        GuidanceConfig, arguments, smoke=SMOKE_SIZES, description="text-free guidance (see the module)"
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=200)
    base = Base.read(config.base)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seed, device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "text_free_guidance", facts)
    rows = Guidance(config, base, file, console.print).run()
    pairs, curve = claims(rows, base), [_point(row) for row in rows]
    found: dict[str, Any] = {"curve": curve, "claims": pairs, "base": base.verdict, "verdict": conclude(pairs)}
    file.conclude(**found)
    plot = plot_guidance(curve, config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    shown = [{name: v if name == "w" or v is None else 100 * v for name, v in point.items()} for point in curve]
    print_rows(console, "identity and compliance (%; w none: text alone)", shown)
    for pair in pairs:
        low, middle, high = (100 * pair[name] for name in ("low", "difference", "high"))
        console.print(f"{pair['claim']}: {middle:+.2f} [{low:+.2f}, {high:+.2f}] points: {pair['verdict']}")
    console.print(f"text-free guidance trades identity for compliance: {found['verdict']}")
    console.print(f"plot: {plot}")


def _scored(read: Sequence[Mapping[str, Any]], asked: Sequence[Task]) -> dict[str, Any]:
    scores = score_factors_per_image(read, [task.wanted for task in asked])
    compliance = np.array([scores[task.factor][i] for i, task in enumerate(asked)])
    per_image = {"compliance": compliance, "identity": np.mean([scores[name] for name in IDENTITY], axis=0)}
    by_factor = {
        f"compliance, {factor}": float(compliance[[task.factor == factor for task in asked]].mean())
        for factor in dict.fromkeys(CHANGED)
    }
    kept = {f"identity, {name}": float(scores[name].mean()) for name in IDENTITY}
    return {
        "scores": {name: float(values.mean()) for name, values in per_image.items()} | by_factor | kept,
        "per_image": {name: [round(float(value), 4) for value in values] for name, values in per_image.items()},
        "subjects": [task.subject for task in asked],
    }


def _point(row: Row) -> dict[str, Any]:
    point: dict[str, Any] = {"w": row["w"]}
    owner = np.asarray(row["subjects"])
    for name in ("identity", "compliance"):
        values = np.asarray(row["per_image"][name])
        interval = mean_interval([values[owner == subject].mean() for subject in sorted(set(row["subjects"]))])
        point |= {name: interval.difference, f"{name} low": interval.low, f"{name} high": interval.high}
    return point


if __name__ == "__main__":
    main()
