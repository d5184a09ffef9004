"""``compare --hosts``: other encoders in vision-language models of transformers, realigned, beside their controls.

Of every host four kinds of rows are measured: as it was; realigned without a swap, which is the control; swapped
before any training; swapped and realigned. Trainings differ in nothing but the model that they start from. A finished
run is found by its key and skipped, so a comparison may be stopped and filled over days.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vislex.adapters.swap_report import SwapReport
from vislex.benchmarks import vqa
from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.caption_models import TRAINING, learning_curve, read_json
from vislex.benchmarks.captioning import Generation, bound_runs, evaluate, run_key
from vislex.benchmarks.compare import fix_config
from vislex.benchmarks.host_arms import (
    HostArm,
    content_of_encoder,
    content_of_host,
    encoder_name,
    host_name,
    realign,
    swap_once,
)
from vislex.benchmarks.host_model import HostModel
from vislex.benchmarks.lmms_responders import ChatResponder, open_responder
from vislex.benchmarks.report import write_report
from vislex.benchmarks.results import ModelInfo, ResultsFile, content_key
from vislex.benchmarks.trainings import Training
from vislex.config import Config, load_config, parse_overrides, read_yaml
from vislex.errors import ConfigError, did_you_mean
from vislex.recipes.realign import RealignConfig

__all__ = ["HostComparisonConfig", "load_host_comparison", "run"]

TITLE = "Vision encoders in vision-language models, compared"
OWN = ("model", "control", "output_dir", "seed", "budget", "device")  # of the recipe; the comparison sets them
NOT_WITH_HOSTS = ("decoders", "models", "baseline", "shipped", "live", "train_missing", "pairs")


class HostComparisonConfig(Config):
    """What is compared; written into the result file before the first run.

    Attributes:
        hosts: Folders or hub ids of vision-language models of the families of ``vislex list hosts``.
        encoders: Names of encoders; ``NAME@untrained`` has random weights.
        budget: Budget of each training, a row of ``budgets.yaml``.
        seeds: Number of swaps and trainings of each arm, with the seeds 0, 1, ...
        lrs: Learning rates that every arm tries; the best on val is used. Empty: the recipe's own.
        suite: Suite of drawings.
        splits: Splits that are scored.
        size: Images that are captioned, and questions, of each split.
        image_size: Side in pixels at which images are drawn.
        vocabulary: Vocabulary of the suite.
        n_train: Training rows that the floors may look at, and that a novel caption is not from.
        margin: Smallest difference of CIDEr-D (in [0, 10]) from the control that counts; None gives no verdicts.
        generation: Of captions; without ``max_new_tokens`` 40.
        max_answer_tokens: Most tokens of an answer.
        train: Further ``key=value`` of the recipe ``realign`` for every arm.
    """

    hosts: list[str] = Field(min_length=1)
    encoders: list[str] = Field(default_factory=list)
    budget: Literal["smoke", "demo", "standard", "long"] = "standard"
    seeds: int = Field(default=1, ge=1)
    lrs: list[float] = Field(default_factory=list)
    suite: str = "openmoji"
    splits: list[str] = Field(default_factory=lambda: ["test_composition"], min_length=1)
    size: int = Field(default=1000, ge=2)
    image_size: int = Field(default=64, ge=16)
    vocabulary: str = "default"
    margin: float | None = Field(default=None, ge=0)
    metric: Literal["CIDEr-D"] = "CIDEr-D"
    generation: Generation = Field(default_factory=Generation)
    max_answer_tokens: int = Field(default=16, ge=1)
    batch_size: int = Field(default=64, ge=1)
    n_latency: int = Field(default=16, ge=0)
    n_images: int = Field(default=24, ge=0)
    n_train: int = Field(default=2000, ge=1)
    device: str = "auto"
    dtype: str = "float32"
    train: list[str] = Field(default_factory=list)
    out: Path = Path("runs/compare")

    @model_validator(mode="after")
    def _something_to_do(self) -> HostComparisonConfig:
        if not self.encoders:
            raise ValueError("nothing to swap: give --encoders, names of 'vislex list encoders'")
        shown = {"hosts": map(host_name, self.hosts), "encoders": map(encoder_name, self.encoders)}
        for kind, names in ((kind, list(given)) for kind, given in shown.items()):
            if len(set(names)) < len(names):
                raise ValueError(f"two {kind} have one name among {', '.join(names)}; give each once, or rename it")
        if taken := [key for key in parse_overrides(self.train) if key in OWN]:
            raise ValueError(f"train: '{taken[0]}' of the recipe is set by the comparison; leave it out")
        return self

    @property
    def arms(self) -> list[HostArm]:
        """Host by host: as it was, then seed by seed its control and each encoder before and after the training."""
        return [arm for host in self.hosts for arm in self._arms_of(host)]

    def _arms_of(self, host: str) -> Iterator[HostArm]:
        yield HostArm(host)
        for seed in range(self.seeds):
            yield HostArm(host, None, seed, is_realigned=True)
            for encoder in self.encoders:
                yield HostArm(host, encoder, seed)
                yield HostArm(host, encoder, seed, is_realigned=True)

    @property
    def pairs(self) -> list[list[str]]:
        """Every swapped and realigned host against its control."""
        trained = [arm for arm in self.arms if arm.is_realigned and arm.seed == 0]
        controls = {arm.host: arm.row for arm in trained if arm.encoder is None}
        return [[arm.row, controls[arm.host]] for arm in trained if arm.encoder is not None]

    @property
    def recipe_overrides(self) -> list[str]:
        """What every arm's training is told beside its model and seed."""
        options = {"vocabulary": self.vocabulary, "image_size": self.image_size}
        mixture = [{"task": task, "data": self.suite, "options": options} for task in ("caption", "vqa")]
        shared = [f"budget={self.budget}", f"device={self.device}", f"mixture={json.dumps(mixture)}"]
        return [*shared, *self.train]


def load_host_comparison(path: Path | None, words: Sequence[str]) -> HostComparisonConfig:
    """Reads a comparison's configuration; a key that only the recipe ``realign`` has goes into ``train``.

    Args:
        path: YAML file.
        words: ``key=value``.

    Raises:
        ConfigError: With every problem at once, or if a key belongs to comparisons of captioners.
    """
    ours, theirs = set(HostComparisonConfig.model_fields), set(RealignConfig.model_fields)
    own: list[str] = []
    train = list(read_yaml(path).get("train") or []) if path is not None else []
    for word in words:
        key = word.partition("=")[0].strip().split(".")[0]
        if key in NOT_WITH_HOSTS:
            raise ConfigError(
                f"--hosts cannot be combined with '{key}', which belongs to comparisons of captioners; leave one out"
            )
        if key == "train":
            train += parse_overrides([word])["train"]
        elif key in ours:
            own.append(word)
        elif key in theirs:
            train.append(word)
        else:
            raise ConfigError(
                f"unknown key '{key}'{did_you_mean(key, ours | theirs)} Keys are those of the comparison "
                f"({', '.join(sorted(ours))}) and of the recipe realign ({', '.join(sorted(theirs - ours))})"
            )
    config = load_config(HostComparisonConfig, path, [*own, f"train={json.dumps(train)}"])
    load_config(RealignConfig, None, [*config.recipe_overrides, "model=start"])
    return config


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
            training = {"overrides": config.recipe_overrides, "lrs": config.lrs}
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
        if isinstance(part, CaptionData):
            sizes = {"batch_size": config.batch_size, "n_latency": config.n_latency}
            made = evaluate(model, part, generation=config.generation, key=key, **sizes)
        else:
            sizes = {"batch_size": config.batch_size, "max_new_tokens": config.max_answer_tokens}
            made = vqa.evaluate(model, model.info, part, key=key, **sizes)
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
