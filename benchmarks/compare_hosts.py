"""``compare --hosts``: other encoders in vision-language models of transformers, realigned, beside their controls.

Of every host four kinds of rows are measured: as it was; realigned without a swap, which is the control; swapped
before any training; swapped and realigned. Trainings differ in nothing but the model that they start from. A finished
run is found by its key and skipped, so a comparison may be stopped and filled over days.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vislex.adapters.swap_report import SwapReport
from vislex.benchmarks import vqa
from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.caption_models import TRAINING, learning_curve, read_json
from vislex.benchmarks.captioning import bound_runs, evaluate, run_key
from vislex.benchmarks.compare import fix_config
from vislex.benchmarks.host_arms import HostArm, content_of_encoder, content_of_host, realign, swap_once
from vislex.benchmarks.host_comparison import HostComparisonConfig
from vislex.benchmarks.host_model import HostModel
from vislex.benchmarks.lmms_responders import ChatResponder, open_responder
from vislex.benchmarks.report import write_report
from vislex.benchmarks.results import ModelInfo, ResultsFile, content_key
from vislex.benchmarks.trainings import Training

__all__ = ["run"]

TITLE = "Vision encoders in vision-language models, compared"


def run(config: HostComparisonConfig, *, log: Callable[[str], None] = lambda line: None) -> Path:
    """Runs a comparison, or what is left of it.

    Args:
        config: What is compared.
        log: Called with a line of progress.

    Returns:
        Path of the report; the result file lies beside it as ``results.json``.

    Raises:
        ConfigError: If the folder holds runs that were made under another margin or other pairs.
        CheckpointError: If a host cannot be read.
        SpecError: If a host cannot read an encoder's tokens; all swaps come before the first training.
    """
    file = ResultsFile(config.out / "results.json")
    contents = {host: content_of_host(host) for host in config.hosts}
    contents |= {encoder: content_of_encoder(encoder) for encoder in config.encoders}
    fix_config(file, {**config.model_dump(mode="json"), "pairs": config.pairs})
    table = _Table(config, contents, file, log)
    table.bounds()
    left = [arm for arm in config.arms if table.missing(arm)]
    for arm in left:
        if arm.encoder is not None:
            swap_once(arm, contents, config.out / "swapped")
    for place, arm in enumerate(config.arms, start=1):
        table.measure(arm, f"[{place}/{len(config.arms)}] {arm.title}")
    return write_report(file.load(), config.out / "report.html", title=TITLE, n_images=config.n_images)


class _Table:
    """The runs of a comparison: which are missing, and how they are made."""

    def __init__(
        self, config: HostComparisonConfig, contents: dict[str, str], file: ResultsFile, log: Callable[[str], None]
    ) -> None:
        self.config, self.contents, self.file, self.log = config, contents, file, log
        drawn: dict[str, Any] = {
            "size": config.size,
            "image_size": config.image_size,
            "n_images": config.n_images,
            "n_train": config.n_train,
            "vocabulary": config.vocabulary,
        }
        self.captions = [load_suite_captions(config.suite, split=split, **drawn) for split in config.splits]
        self.questions = [vqa.load_vqa_data(config.suite, split=split, **drawn) for split in config.splits]

    def bounds(self) -> None:
        """Floors and ceilings that are not there yet."""
        done = {made.key for made in self.file.load().runs}
        for part in self.captions:
            for bound in bound_runs(part, done=done):
                self.file.append(bound, part.record)
        for asked in self.questions:
            self.file.append(vqa.floor_run(asked), asked.record)

    def missing(self, arm: HostArm) -> list[tuple[CaptionData | vqa.VqaData, str]]:
        """The data that an arm has not been measured on, each with the key of that run."""
        config, results = self.config, self.file.load()
        model = arm.identity(self.contents, config.recipe_overrides, config.lrs)
        keys: list[tuple[CaptionData | vqa.VqaData, str]] = [
            (part, run_key(model, part, config.generation, config.batch_size, config.dtype)) for part in self.captions
        ]
        shared = {"task": "vqa", "model": model, "max_new_tokens": config.max_answer_tokens, "dtype": config.dtype}
        keys += [
            (asked, content_key({**shared, "data": asked.record.key, "scorer": asked.scorer}))
            for asked in self.questions
        ]
        return [(part, key) for part, key in keys if results.find(key) is None]

    def measure(self, arm: HostArm, title: str) -> None:
        """Trains an arm if it is to be trained, and measures it where that was not done."""
        config = self.config
        missing = self.missing(arm)
        if not missing:
            self.log(f"{title}: finished before, skipped")
            return
        start: str | Path = arm.host
        if arm.encoder is not None:
            start = swap_once(arm, self.contents, config.out / "swapped")
        trained = None
        if arm.is_realigned:
            training: dict[str, Any] = {"overrides": config.recipe_overrides, "lrs": config.lrs}
            trained = realign(arm, start, self.contents, config.out / "models", **training)
            self.log(f"{title}: " + ("trained before" if trained.was_there else f"trained in {trained.seconds:.0f} s"))
        responder = open_responder(trained.folder if trained else start, device=config.device, dtype=config.dtype)
        assert isinstance(responder, ChatResponder)
        model = HostModel(responder)
        model.info = _described(arm, model.info, Path(start), trained)
        for part, key in missing:
            self._evaluate(model, part, key, title)

    def _evaluate(self, model: HostModel, part: CaptionData | vqa.VqaData, key: str, title: str) -> None:
        config = self.config
        options: dict[str, Any] = {"key": key, "batch_size": config.batch_size}
        if isinstance(part, CaptionData):
            made = evaluate(model, part, generation=config.generation, n_latency=config.n_latency, **options)
        else:
            made = vqa.evaluate(model, model.info, part, max_new_tokens=config.max_answer_tokens, **options)
        self.file.append(made, part.record)
        scores = ", ".join(
            f"{name} {100 * made.scores[name]:.1f}"
            for name in ("CIDEr-D", "scene-F1", "accuracy")
            if name in made.scores
        )
        self.log(f"{title} on {part.record.split}: {scores} (x 100, {made.timing.seconds:.0f} s)")


def _described(arm: HostArm, info: ModelInfo, start: Path, trained: Training | None) -> ModelInfo:
    """What is known of an arm: its row, what the swap left to be retrained, and its training."""
    known: dict[str, Any] = {"row": arm.row, "encoder": arm.encoder, "seed": arm.seed}
    facts: dict[str, Any] = {}
    if arm.encoder is not None:
        report = SwapReport.load(start).to_dict()
        kept = {name: report[name] for name in ("kind", "image_tokens", "parts", "notes")}
        facts["swap"] = {"name": arm.parts, **kept}
    if trained is not None:
        record = read_json(trained.folder / "run.json")
        facts |= {key: record[key] for key in TRAINING if key in record}
        facts |= {"config": trained.config, "wall_seconds": round(trained.seconds, 1)}
        count = sum(part["trainable"] for part in record["parts"])
        total = info.parameters["total"]
        known["parameters"] = {"total": total, "trainable": count, "frozen": total - count, "budgeted": count}
        known |= {
            "origin": "trained" if trained.was_there else "trained live",
            "curve": learning_curve(trained.folder),
        }
    else:
        known["parameters"] = {"total": info.parameters["total"], "trainable": 0, "frozen": info.parameters["total"]}
    return info.model_copy(update={**known, "training": facts or None})
