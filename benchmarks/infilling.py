"""Filling blanks: how often a captioner puts the missing words back into a reference caption.

One or two content words of a reference are blanked; an answer is right if it is the very word. Decoders that see both
sides are held against autoregressive ones, which fill from left to right, with candidates re-scored by the whole
sentence, or, if trained for it, after reading the whole template:

    python -m vislex.benchmarks.infilling --model runs/masked --model runs/cross_attention [--size 1000] [--out FILE]

A finished row is found in the result file and skipped; differences are paired over the same blanks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vislex import provenance
from vislex.benchmarks.caption_data import CaptionData, load_caption_data
from vislex.benchmarks.caption_models import VislexCaptioner
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.results import Results, ResultsFile, Run, Timing, content_key
from vislex.captioner import InfilledCaption
from vislex.decoders.autoregressive import AutoregressiveDecoder
from vislex.errors import ConfigError, SpecError
from vislex.metrics.statistics import paired_bootstrap

__all__ = ["FUNCTION_WORDS", "Cloze", "cloze", "evaluate", "main", "table", "ways"]

RESULTS = Path(__file__).parent / "results" / "infilling.json"
SCORER = "blank-accuracy@2"  # 2: with the share of repeated words
# Words that are never blanked: they can be guessed without the image.
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "on",
        "in",
        "at",
        "to",
        "with",
        "and",
        "or",
        "is",
        "are",
        "there",
        "some",
        "one",
        "it",
        "its",
        "by",
        "from",
        "near",
        "next",
        "against",
    ]
)


class Cloze:
    """A caption with blanked words.

    Attributes:
        template: The caption with ``___`` in their place.
        answers: The words.
    """

    def __init__(self, caption: str, places: Sequence[int]) -> None:
        words = list(re.finditer(r"[A-Za-z]+(?:[-'][A-Za-z]+)*", caption))
        chosen = [words[place] for place in sorted(places)]
        edges = [0, *(edge for match in chosen for edge in match.span()), len(caption)]
        self.template = "___".join(caption[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
        self.answers = tuple(match.group().lower() for match in chosen)

    def accuracy(self, words: Sequence[str]) -> float:
        """Share of the blanks that hold the very word."""
        return float(np.mean([word.lower() == answer for word, answer in zip(words, self.answers, strict=True)]))

    def repeats(self, words: Sequence[str]) -> float:
        """Share of the blanks that hold a content word which stands in the template already, and not the answer."""
        given = {word.lower() for word in re.findall(r"[A-Za-z]+", self.template)} - FUNCTION_WORDS
        pairs = zip(words, self.answers, strict=True)
        return float(np.mean([word.lower() in given and word.lower() != answer for word, answer in pairs]))

    def is_kept(self, caption: str) -> bool:
        """Whether the given text stands in a caption letter for letter, in order."""
        return re.fullmatch(".+".join(map(re.escape, self.template.split("___"))), caption) is not None


def cloze(references: Sequence[str], n_blanks: int, generator: np.random.Generator) -> Cloze | None:
    """Blanks content words of the first reference, in a random order, that has enough of them; None if none has."""
    for index in generator.permutation(len(references)):
        words = re.findall(r"[A-Za-z]+(?:[-'][A-Za-z]+)*", references[index])
        content = [place for place, word in enumerate(words) if word.lower() not in FUNCTION_WORDS and "-" not in word]
        if len(content) >= n_blanks:
            return Cloze(references[index], generator.choice(content, size=n_blanks, replace=False).tolist())
    return None


def ways(model: VislexCaptioner) -> dict[str, dict[str, Any]]:
    """The ways in which a captioner can fill blanks: a name for the row, and options of ``Captioner.infill``."""
    decoder = model.captioner.decoder
    if not isinstance(decoder, AutoregressiveDecoder):
        return {"both sides": {}}
    trained = [] if decoder.config.blank_token_id is None else ["fill_in_middle"]
    return {mode.replace("_", " "): {"mode": mode} for mode in ("left_to_right", "rescored", *trained)}


def evaluate(
    model: VislexCaptioner,
    data: CaptionData,
    *,
    n_blanks: int,
    way: str,
    options: dict[str, Any],
    seed: int = 0,
    batch_size: int = 32,
    key: str | None = None,
) -> Run:
    """Fills the blanks of every image that has a caption with enough content words.

    Args:
        model: A captioner of vislex.
        data: Images and references.
        n_blanks: Words to blank.
        way: Name of the way, for the row.
        options: Options of ``Captioner.infill``.
        seed: Of the choice of captions and words.
        batch_size: Images a batch.
        key: Key of the run; made of the weights' hash if None.

    Returns:
        A run with "accuracy", "kept" and "repeated" (a blank holds a content word that is given elsewhere) in [0, 1];
        the accuracy image by image, in the order of the images that have blanks. A template for which the decoder has
        no room is a wrong answer, counted in "no_room" too; "kept" and "repeated" are shares of the others.
    """
    made = [
        cloze(data.record.references[identity], n_blanks, np.random.default_rng([seed, n_blanks, row]))
        for row, identity in enumerate(data.record.ids)
    ]
    begun, busy = time.perf_counter(), 0.0
    accuracy, kept, repeated, captions, evaluations = [], [], [], [], []
    for images, clozes in _batches(data, made, batch_size):
        started = time.perf_counter()
        filled = _fill(model, images, clozes, options)
        busy += time.perf_counter() - started
        for one, caption in zip(clozes, filled, strict=True):
            if caption is None:
                accuracy.append(0.0)
                captions.append("")
                continue
            accuracy.append(one.accuracy(caption.blanks))
            kept.append(float(one.is_kept(caption.text)))
            repeated.append(one.repeats(caption.blanks))
            captions.append(caption.text)
            evaluations.append(caption.evaluations)
    if not kept:
        raise ConfigError(f"no caption of {data.record.name} has {n_blanks} content words to blank; ask for fewer")
    dtype = str(model.dtype).removeprefix("torch.")
    return Run(
        key=key or run_key(model, data, n_blanks, options, seed),
        task="infilling",
        model=model.info.model_copy(update={"row": f"{model.info.row}, {way}"}),
        data=data.record.key,
        provenance=provenance.collect(seed=seed, device=str(model.device), dtype=dtype),
        generation={"n_blanks": n_blanks, "batch_size": batch_size, **options},
        scorers=[SCORER],
        n=len(captions),
        scores={
            "accuracy": float(np.mean(accuracy)),
            "kept": float(np.mean(kept)),
            "repeated": float(np.mean(repeated)),
            "no_room": (len(captions) - len(kept)) / len(captions),
        },
        per_image={"accuracy": accuracy},
        captions=captions,
        timing=Timing(
            throughput=round(len(captions) / busy, 3),
            batch_size=batch_size,
            evaluations=float(np.mean(evaluations)),
            seconds=round(time.perf_counter() - begun, 3),
        ),
    )


def _fill(
    model: VislexCaptioner, images: Sequence[Any], clozes: Sequence[Cloze], options: dict[str, Any]
) -> list[InfilledCaption | None]:
    """The filled templates; None for each that is too long for the decoder."""
    templates = [one.template for one in clozes]
    try:
        return list(model.captioner.infill(images, templates, batch_size=len(images), **options))
    except SpecError:
        if len(images) == 1:
            return [None]
        return [_fill(model, [image], [one], options)[0] for image, one in zip(images, clozes, strict=True)]


def run_key(model: VislexCaptioner, data: CaptionData, n_blanks: int, options: dict[str, Any], seed: int) -> str:
    """Key of a run: what determines its numbers."""
    given = {"n_blanks": n_blanks, "options": options, "seed": seed, "scorer": SCORER, "dtype": str(model.dtype)}
    return content_key({"task": "infilling", "model": model.info.sha256, "data": data.record.key, **given})


def table(results: Results) -> list[dict[str, Any]]:
    """One row a run; each is held against the best autoregressive row with the same blanks, paired."""
    rows = []
    runs = [run for run in results.runs if run.task == "infilling"]
    for (data, n_blanks), group in _grouped(runs):
        rivals = [run for run in group if "mode" in run.generation]
        best = max(rivals, key=lambda run: run.scores["accuracy"], default=None)
        for run in sorted(group, key=lambda run: -run.scores["accuracy"]):
            row: dict[str, Any] = {
                "split": results.data[data].split,
                "blanks": n_blanks,
                "row": run.model.row,
                "accuracy": run.scores["accuracy"],
                "kept": run.scores["kept"],
                "repeated": run.scores["repeated"],
                "no room": run.scores.get("no_room", 0.0),
                "evaluations": run.timing.evaluations,
                "captions a second": run.timing.throughput,
                "n": run.n,
            }
            if best is not None and run is not best:
                interval = paired_bootstrap(
                    np.asarray(run.per_image["accuracy"]), np.asarray(best.per_image["accuracy"])
                )
                row |= {"against": best.model.row, "difference": interval.difference}
                row |= {"low": interval.low, "high": interval.high}
            rows.append(row)
    return rows


def _grouped(runs: Sequence[Run]) -> Iterator[tuple[tuple[str, int], list[Run]]]:
    def by(run: Run) -> tuple[str, int]:
        return str(run.data), int(run.generation["n_blanks"])

    for key, group in itertools.groupby(sorted(runs, key=by), key=by):
        yield key, list(group)


def _batches(data: CaptionData, made: Sequence[Cloze | None], size: int) -> Iterator[tuple[list[Any], list[Cloze]]]:
    rows = [(row, one) for row, one in enumerate(made) if one is not None]
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        yield [data.rows[row]["image"] for row, _ in batch], [one for _, one in batch]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing in the result file, and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", action="append", required=True, help="captioner folder or shipped one; repeatable")
    parser.add_argument("--data", default="openmoji", help="suite, or SOURCE:FOLDER")
    parser.add_argument("--split", default="test_composition")
    parser.add_argument("--vocabulary", default=None, help="vocabulary of the suite; its default one if not given")
    parser.add_argument("--size", type=int, default=1000, help="images")
    parser.add_argument("--blanks", default="1,2", help="numbers of blanked words")
    parser.add_argument("--seed", type=int, default=0, help="of the blanked words")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, width=200)
    extra = {} if given.vocabulary is None else {"vocabulary": given.vocabulary}
    data = load_caption_data(given.data, split=given.split, size=given.size, n_images=0, **extra)
    file = ResultsFile(given.out)
    for name in given.model:
        model = open_caption_model(name, row=Path(name).name, device=given.device, dtype="float32")
        if not isinstance(model, VislexCaptioner):
            raise ConfigError(f"'{name}' is no captioner of vislex and cannot fill blanks; give a folder")
        for n_blanks, (way, options) in itertools.product(map(int, given.blanks.split(",")), ways(model).items()):
            key = run_key(model, data, n_blanks, options, given.seed)
            if file.find(key) is None:
                settings = {"n_blanks": n_blanks, "way": way, "options": options, "seed": given.seed, "key": key}
                file.append(evaluate(model, data, batch_size=given.batch_size, **settings), data.record)
    rows = table(file.load())
    if given.json:
        console.print_json(json.dumps(rows))
        return
    shown = Table(title="filling blanks: exact words; differences against the best autoregressive row, 95 % intervals")
    columns = (
        "split", "blanks", "row", "accuracy", "difference", "low", "high", "kept", "repeated", "no room",
        "evaluations", "n",
    )  # fmt: skip
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(_cell(row.get(column)) for column in columns))
    console.print(shown)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
