"""``compare``: trains the captioners that are missing, measures all in the same way, and writes the report.

Every arm shares the data, the tokenizer, the post-processing and the budget. ``NAME@untrained`` is the control: the
same architecture, frozen with random weights, and the same downstream training. An arm may also come trained: with
``shipped`` the captioner that vislex ships for exactly this training is taken. A finished run is found by its key and
skipped, so a comparison may be stopped and filled over days.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from vislex.benchmarks.arms import Arm, TrainedArm, shipped_arm, train_arm
from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.caption_models import CaptionModel, folder_hash
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.captioning import bound_runs, evaluate, run_key
from vislex.benchmarks.comparison_settings import ComparisonSettings
from vislex.benchmarks.report import write_report
from vislex.benchmarks.results import Results, ResultsFile, Run
from vislex.errors import CheckpointError, ConfigError, did_you_mean

__all__ = ["ComparisonConfig", "fix_config", "run"]

FIXED = ("margin", "pairs", "metric")


class ComparisonConfig(ComparisonSettings):
    """What is compared, with the recipe ``caption``; see ``ComparisonSettings`` for the keys of every comparison.

    ``NAME@untrained`` is the control of the encoder NAME, and learning rates are tried with the first seed.

    Attributes:
        decoders: Names of decoders.
        models: Captioners that are measured without training: folders, names of shipped ones, ``hf:`` names.
        shipped: Whether a captioner that vislex ships stands for an arm whose training would be exactly its own.
        live: Rows, e.g. "siglip-tiny + prefix", that are trained although they are shipped.
        train_missing: Whether arms that nobody has trained are trained; else they are left out, and a line says so.
        pairs: Rows [a, b] whose difference a - b is asked for. Empty: every encoder against its control, and with
            ``baseline`` every row against that one.
        baseline: A row, e.g. "siglip-tiny + prefix".
    """

    decoders: list[str] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list)
    shipped: bool = False
    live: list[str] = Field(default_factory=list)
    train_missing: bool = True
    pairs: list[list[str]] = Field(default_factory=list)
    baseline: str | None = None

    @model_validator(mode="after")
    def _something_to_do(self) -> ComparisonConfig:
        if bool(self.encoders) != bool(self.decoders):
            raise ValueError("encoders and decoders belong together: give at least one of each, or only models")
        if not self.encoders and not self.models:
            raise ValueError("nothing to compare: give encoders and decoders, or models")
        rows = [arm.row for arm in self.arms]
        if unknown := [row for row in self.live if row not in rows]:
            raise ValueError(f"live: no row '{unknown[0]}'{did_you_mean(unknown[0], rows)} Rows are {', '.join(rows)}")
        return self

    @property
    def arms(self) -> list[Arm]:
        """Every encoder with every decoder and seed, seeds outermost, so that a stopped comparison is balanced."""
        return [
            Arm(encoder=encoder, decoder=decoder, seed=seed)
            for seed in range(self.seeds)
            for decoder in self.decoders
            for encoder in self.encoders
        ]

    @property
    def recipe_overrides(self) -> list[str]:
        """What every arm's training is told beside its parts."""
        options = [f"data_options.vocabulary={self.vocabulary}", f"data_options.image_size={self.image_size}"]
        return [f"data={self.suite}", *options, *self.train]

    def wanted_pairs(self) -> list[list[str]]:
        """``pairs``, or what follows from controls and baseline."""
        if self.pairs:
            return self.pairs
        rows = list(dict.fromkeys(arm.row for arm in self.arms))
        pairs = [
            [arm.row, arm.control.row]
            for arm in self.arms
            if arm.seed == 0 and arm.control.row in rows and not arm.is_control
        ]
        if self.baseline:
            pairs += [
                [row, self.baseline] for row in rows if row != self.baseline and [row, self.baseline] not in pairs
            ]
        return pairs


def run(config: ComparisonConfig, *, log: Callable[[str], None] = lambda line: None) -> Path:
    """Runs a comparison, or what is left of it.

    Args:
        config: What is compared.
        log: Called with a line of progress.

    Returns:
        Path of the report; the result file lies beside it as ``results.json``.

    Raises:
        ConfigError: If the folder holds runs that were made under another margin or other pairs.
    """
    file = ResultsFile(config.out / "results.json")
    fix_config(file, {**config.model_dump(mode="json"), "pairs": config.wanted_pairs()})
    data = [_load(config, split) for split in config.splits]
    done = {made.key for made in file.load().runs}
    for part in data:
        for bound in bound_runs(part, done=done):
            file.append(bound, part.record)
    for place, arm in enumerate(config.arms, start=1):
        _measure_arm(config, arm, data, file, partial(_numbered, log, f"[{place}/{len(config.arms)}]"))
    for name in config.models:
        _measure_model(config, name, data, file, log)
    return write_report(file.load(), config.out / "report.html", n_images=config.n_images)


def _numbered(log: Callable[[str], None], number: str, line: str) -> None:
    log(f"{number} {line}")


def _measure_arm(
    config: ComparisonConfig, arm: Arm, data: list[CaptionData], file: ResultsFile, log: Callable[[str], None]
) -> None:
    identity = {
        "arm": arm.identity(config.budget, config.recipe_overrides, config.lrs),
        "suite": data[0].record.provenance,
    }
    training: dict[str, Any] = {"budget": config.budget, "overrides": config.recipe_overrides, "lrs": config.lrs}
    missing = _missing(config, identity, data, file)
    if not missing:
        log(f"{arm.title}: finished before, skipped")
        return
    if config.shipped and arm.row not in config.live:
        try:
            _measure_shipped(config, arm, shipped_arm(arm, **training), data, file, log)
            return
        except CheckpointError as error:
            log(f"{arm.title}: {'' if config.train_missing else 'left out: '}{error}")
    if not config.train_missing and arm.row not in config.live:
        return
    trained = train_arm(arm, folder=config.out / "models", **training)
    live = trained.origin == "trained live"
    log(f"{arm.title}: " + (f"trained live in {trained.seconds:.0f} s" if live else "trained before"))
    _measure(config, _open(config, trained), arm.title, missing, file, log, trained.config)


def _measure_shipped(
    config: ComparisonConfig,
    arm: Arm,
    trained: TrainedArm,
    data: list[CaptionData],
    file: ResultsFile,
    log: Callable[[str], None],
) -> None:
    missing = _missing(config, folder_hash(trained.folder), data, file)
    log(f"{arm.title}: shipped as '{trained.folder.name}'" + ("" if missing else "; finished before, skipped"))
    if missing:
        _measure(config, _open(config, trained), arm.title, missing, file, log, trained.config)


def _measure_model(
    config: ComparisonConfig, name: str, data: list[CaptionData], file: ResultsFile, log: Callable[[str], None]
) -> None:
    model = open_caption_model(name, row=_row_name(name), device=config.device, dtype=config.dtype)
    missing = _missing(config, model.info.sha256 or name, data, file)
    if len(missing) < len(data):
        log(f"{name}: finished before on {len(data) - len(missing)} of {len(data)} splits, skipped there")
    _measure(config, model, f"{name} ({model.info.origin})", missing, file, log)


def _missing(
    config: ComparisonConfig, identity: dict[str, Any] | str, data: list[CaptionData], file: ResultsFile
) -> list[tuple[CaptionData, str]]:
    """The data that a model has not been measured on, each with the key of that run."""
    results = file.load()
    keys = [run_key(identity, part, config.generation, config.batch_size, config.dtype) for part in data]
    return [(part, key) for part, key in zip(data, keys, strict=True) if results.find(key) is None]


def _open(config: ComparisonConfig, trained: TrainedArm) -> CaptionModel:
    model = open_caption_model(trained.folder, device=config.device, dtype=config.dtype)
    model.info = trained.describe(model.info)
    return model


def _measure(
    config: ComparisonConfig,
    model: CaptionModel,
    title: str,
    missing: list[tuple[CaptionData, str]],
    file: ResultsFile,
    log: Callable[[str], None],
    training: dict[str, Any] | None = None,
) -> None:
    for part, key in missing:
        made = evaluate(
            model,
            part,
            generation=config.generation,
            batch_size=config.batch_size,
            n_latency=config.n_latency,
            key=key,
            config=training,
        )
        file.append(made, part.record)
        log(_line(title, part, made))


def _load(config: ComparisonConfig, split: str) -> CaptionData:
    return load_suite_captions(
        config.suite,
        split=split,
        size=config.size,
        image_size=config.image_size,
        n_images=config.n_images,
        n_train=config.n_train,
        vocabulary=config.vocabulary,
    )


def fix_config(file: ResultsFile, values: dict[str, Any]) -> None:
    """Writes a comparison's config; its margin, pairs and metric may not change after the first run.

    Args:
        file: Result file of the comparison.
        values: Plain values with "margin", "pairs" and "metric".

    Raises:
        ConfigError: If they did.
    """
    before: Results = file.load()
    if before.config is not None and any(run.model.origin not in ("floor", "ceiling") for run in before.runs):
        changed = [name for name in FIXED if before.config.get(name) != values[name]]
        if all(pair in values["pairs"] for pair in before.config["pairs"]):
            changed = [name for name in changed if name != "pairs"]  # more pairs may be asked for, none be dropped
        if changed:
            raise ConfigError(
                f"'{file.path}' holds runs made under another {' and '.join(changed)}; what counts is fixed before the "
                "runs: choose another --out, or give the values of its config"
            )
    written = (before.config or {}).get("written") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    file.set_config({**values, "written": written})


def _row_name(name: str) -> str | None:
    """A folder's name, a stock model's; a shipped captioner's row is that of its arm."""
    if name.startswith("hf:"):
        return name
    return Path(name).name if Path(name).is_dir() else None


def _line(title: str, data: CaptionData, made: Run) -> str:
    scores = ", ".join(
        f"{name} {100 * made.scores[name]:.1f}" for name in ("CIDEr-D", "scene-F1") if name in made.scores
    )
    return f"{title} on {data.record.split}: {scores} (x 100, {made.timing.seconds:.0f} s)"
