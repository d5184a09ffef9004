"""The trainings and measurements of the comparison of LaDiC with autoregression, each made once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerFast

from vislex.benchmarks.caption_cost import time_captions, time_throughput
from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.caption_models import VislexCaptioner, folder_hash, read_json
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.captioning import bound_runs, scorer_ids
from vislex.benchmarks.contenders import CONTENDERS, TEACHER, TEACHER_OPTIONS, Contender, ways
from vislex.benchmarks.encoded import decode_and_score, encode
from vislex.benchmarks.equal_parameters import Fitted, check_equal, fit, planned_codec, trained_parameters
from vislex.benchmarks.equal_time import measure_step_seconds, steps_of_equal_time
from vislex.benchmarks.experiment import LENGTHS, Experiment
from vislex.benchmarks.results import content_key
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trained_rows import best_of_each_seed, sweep, trained_row, validation_curve
from vislex.benchmarks.trainings import identity, train_once
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError, did_you_mean
from vislex.modules.digest import weights_digest
from vislex.recipes import ladic_codec
from vislex.recipes.caption import CaptionConfig
from vislex.specs import VisionTokens
from vislex.text import load_tokenizer, prune_tokenizer

__all__ = ["AgainstARConfig", "StyleRuns", "reference_lengths"]

RESULTS = Path(__file__).parent / "results" / "ladic_against_ar.json"


class AgainstARConfig(Experiment):
    """Options of ``ladic_against_ar``."""

    styles: list[Literal["lossy", "dense"]] = Field(
        ["lossy"], min_length=1, description="captions to learn and to be scored on: lossy (short), dense (long)"
    )
    arms: list[str] = Field(list(CONTENDERS), min_length=1, description="arms to run")
    arm: dict[str, Path] = Field({}, description="existing captioner that stands for an arm, e.g. ladic=DIR")
    codec: Path | None = Field(None, description="codec of LaDiC; one is trained if none is given")
    distill_share: float = Field(1.0, gt=0, le=1, description="share of the students' captions that are the teacher's")
    n_latency: int = Field(32, ge=1, description="captions timed one by one")
    throughput: list[int] = Field([1, 16, 64], min_length=1, description="batch sizes of the throughput")
    timed_steps: int = Field(40, ge=1, description="training steps of each decoder timed for equal time")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    @model_validator(mode="after")
    def _arms_fit(self) -> AgainstARConfig:
        for name in [*self.arms, *self.arm]:
            if name not in CONTENDERS:
                raise ValueError(f"no arm '{name}'{did_you_mean(name, CONTENDERS)} Arms are {', '.join(CONTENDERS)}")
        if unused := sorted(set(self.arm) - set(self.arms)):
            raise ValueError(f"arm: '{unused[0]}' is not among the arms to run; add it to arms")
        students = [arm.name for arm in self.contenders if arm.is_student]
        if students and TEACHER not in self.arms:
            raise ValueError(f"'{students[0]}' learns from '{TEACHER}'; add it to arms")
        if self.arm and len(self.styles) > 1:
            raise ValueError("arm: a captioner writes captions of one style; give one of styles")
        return self

    @property
    def contenders(self) -> list[Contender]:
        """In the order in which they are trained."""
        return [arm for name, arm in CONTENDERS.items() if name in self.arms]


class StyleRuns:
    """All that is trained and measured on captions of one style.

    Args:
        config: Options.
        style: Of the captions.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: AgainstARConfig, style: str, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.style, self.file, self.log = config, style, file, log
        self._models: dict[Path, VislexCaptioner] = {}
        self._encoded: dict[str, list[VisionTokens]] = {}
        self._features: str | None = None

    def run(self) -> list[dict[str, Any]]:
        """Trains and measures what is missing.

        Returns:
            All rows of this style: kinds "bound", "step seconds", "training", "captions" and "cost".

        Raises:
            ConfigError: Before any training, if the arms' trained parameters are not equal.
        """
        check_equal({arm.name: self.sizes[arm.name].budget for arm in self.config.contenders})
        rows = [self._bound()]
        if any(arm.equal == "time" for arm in self.config.contenders):
            rows.append(self._step_seconds())
        for arm in self.config.contenders:
            trained = self._trainings(arm)
            rows += trained
            for row in best_of_each_seed(trained):
                rows += self._measured(arm, row)
        return rows

    @functools.cached_property
    def sizes(self) -> dict[str, Fitted]:
        """Of every arm, by name: that of LaDiC as it is, of the others as wide as equal parameters ask for."""
        given = {name: self._given_size(folder) for name, folder in self.config.arm.items()}
        target = given["ladic"] if "ladic" in given else self._fit("ladic", None)
        decoders = {arm.decoder for arm in self.config.contenders if arm.name not in given}
        own = {decoder: self._fit(decoder, target.budget) for decoder in decoders}
        return {"ladic": target} | {
            arm.name: given[arm.name] if arm.name in given else own[arm.decoder] for arm in self.config.contenders
        }

    def _fit(self, decoder: str, target: int | None) -> Fitted:
        options = dict(self._config(decoder, 0, 1e-3).decoder_options)
        options["max_length"] = LENGTHS[self.style]
        if decoder == "ladic":
            options["codec"] = planned_codec(self.config.codec_config(self.style), self._tokenizer)
        return fit(decoder, self._spec, self._tokenizer, options, target=target)

    def _given_size(self, folder: Path) -> Fitted:
        decoder = self._open(folder).captioner.decoder
        size = getattr(decoder.config, "intermediate_size", None) or 0
        return Fitted(int(size), trained_parameters(decoder))

    @functools.cached_property
    def _spec(self) -> Any:
        return create_encoder(self.config.encoder, tiny=self.config.tiny, pretrained=False).spec

    @functools.cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        known = self.data["test_composition"].known_captions
        assert known is not None
        return prune_tokenizer(load_tokenizer(), known)[0]

    @functools.cached_property
    def data(self) -> dict[str, CaptionData]:
        """Images and references of the two splits that are scored."""
        config = self.config
        sizes = {"val": config.val_size, "test_composition": config.size}
        options = {"n_images": 0, "n_train": config.train_size, **config.data_options(self.style)}
        return {split: load_suite_captions(split=split, size=size, **options) for split, size in sizes.items()}

    def _bound(self) -> dict[str, Any]:
        data = self.data["test_composition"]

        def make() -> dict[str, Any]:
            return {"scores": bound_runs(data, floors=False)[0].scores}

        return self._row({"kind": "bound", "data": data.record.key, "scorers": scorer_ids()}, make)

    def _step_seconds(self) -> dict[str, Any]:
        """Seconds of training steps of LaDiC and of every decoder that trains as long."""
        configs = {"ladic": self._ladic_config}
        for arm in self.config.contenders:
            if arm.equal == "time":
                size = {"intermediate_size": self.sizes[arm.name].intermediate_size}
                configs[arm.decoder] = self._config(arm.decoder, 0, self.config.lrs[0], decoder_options=size)
        plans = {name: content_key(identity(config)) for name, config in configs.items()}

        def make() -> dict[str, Any]:
            self.log(f"{self.style}: {self.config.timed_steps} training steps of {', '.join(configs)} in turn")
            return {"seconds": measure_step_seconds(configs, rounds=self.config.timed_steps)}

        return self._row({"kind": "step seconds", "trainings": plans}, make)

    @functools.cached_property
    def _ladic_config(self) -> CaptionConfig:
        """How LaDiC is trained, or was, where a captioner stands for it."""
        if "ladic" not in self.config.arm:
            return self._arm_config(CONTENDERS["ladic"], 0, self.config.lrs[0])
        folder = self.config.arm["ladic"]
        try:
            return CaptionConfig.model_validate(read_json(folder / "run.json")["config"])
        except (KeyError, ValidationError) as error:
            raise ConfigError(
                f"'{folder}' does not say how it was trained, so nothing can train for as long; leave out the arms of "
                "equal time"
            ) from error

    def _steps(self, arm: Contender) -> int:
        if arm.equal == "samples":
            return self.config.steps
        seconds = self._step_seconds()["seconds"]
        return steps_of_equal_time(self._ladic_config.steps, seconds, of=arm.decoder, like="ladic")

    def _config(self, decoder: str, seed: int, lr: float, **changes: Any) -> CaptionConfig:
        """Of a training at the sizes of the experiment."""
        return self.config.caption(decoder, seed=seed, lr=lr, style=self.style, **changes)

    @functools.cached_property
    def codec(self) -> Path:
        """Folder of LaDiC's codec, which is trained if none is given."""
        if self.config.codec is not None:
            return self.config.codec
        config = self.config.codec_config(self.style)
        made = train_once(ladic_codec.RECIPE, config, self.config.folder, f"{self.style}-codec")
        self.log(f"{self.style}: codec " + ("trained before" if made.was_there else f"trained in {made.seconds:.0f} s"))
        return made.folder

    def _arm_config(self, arm: Contender, seed: int, lr: float) -> CaptionConfig:
        options = {**arm.options, "intermediate_size": self.sizes[arm.name].intermediate_size}
        if arm.is_ladic:
            options["codec"] = str(self.codec)
        changes: dict[str, Any] = {"steps": self._steps(arm)}
        if arm.is_student:
            changes |= {
                "distill_from": str(self.teacher),
                "distill_options": TEACHER_OPTIONS,
                "distill_share": self.config.distill_share,
            }
        return self._config(arm.decoder, seed, lr, decoder_options=options, **changes)

    @functools.cached_property
    def teacher(self) -> Path:
        """Folder of the students' teacher: the first seed, the best learning rate."""
        return Path(best_of_each_seed(self._trainings(CONTENDERS[TEACHER]))[0]["folder"])

    def _trainings(self, arm: Contender) -> list[dict[str, Any]]:
        """Rows of an arm's trainings, or of the captioner that stands for it."""
        if arm.name in self.config.arm:
            return [self._given(arm, self.config.arm[arm.name])]
        return list(sweep(functools.partial(self._train, arm), self.config.seeds, self.config.lrs))

    def _train(self, arm: Contender, seed: int, lr: float) -> dict[str, Any]:
        where = {"style": self.style, "arm": arm.name, "seed": seed, "lr": lr}
        name = f"{self.style}-{arm.name.replace(' ', '-')}-seed{seed}"
        row = trained_row(self.file, where, self._arm_config(arm, seed, lr), self.config.folder, name)
        self.log(
            f"{self.style}: {arm.name}, seed {seed}, lr {lr:g}, {row['steps']} steps, {row['seconds']:.0f} s of "
            f"training: CIDEr-D {100 * row['val']:.1f} on val"
        )
        return row

    def _given(self, arm: Contender, folder: Path) -> dict[str, Any]:
        where = {"kind": "training", "arm": arm.name, "seed": self.config.seeds[0], "lr": None}
        record = read_json(folder / "run.json")

        def make() -> dict[str, Any]:
            values = {**validation_curve(folder), "folder": str(folder), "steps": record.get("config", {}).get("steps")}
            values["seconds"] = record.get("figures", {}).get("seconds")
            return {**values, "parameters": self.sizes[arm.name].counts}

        row = self._row({**where, "config": {"sha256": folder_hash(folder)}}, make)
        self.log(f"{self.style}: {arm.name} is {folder}")
        return row

    def _measured(self, arm: Contender, trained: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """Captions of both splits in every way, and with the first seed what each way costs."""
        folder = Path(trained["folder"])
        for way, options in ways(arm).items():
            shared = {"arm": arm.name, "seed": trained["seed"], "way": way, "options": options}
            shared |= {"training": trained["key"]}
            for split, data in self.data.items():
                where = {"kind": "captions", **shared, "split": split, "data": data.record.key, "scorers": scorer_ids()}
                row = self._row(where, functools.partial(self._captions, folder, split, options))
                yield row
            self.log(
                f"{self.style}: {arm.name}, seed {trained['seed']}, {way}: "
                f"CIDEr-D {100 * row['scores']['CIDEr-D']:.1f}, scene-F1 {100 * row['scores']['scene-F1']:.1f}, "
                f"{row['evaluations']:.1f} evaluations"
            )
            if trained["seed"] == self.config.seeds[0]:
                where = {"kind": "cost", **shared, "n": self.config.n_latency, "batch sizes": self.config.throughput}
                yield self._row(where, functools.partial(self._cost, folder, options))

    def _captions(self, folder: Path, split: str, options: Mapping[str, Any]) -> dict[str, Any]:
        model, data = self._open(folder), self.data[split]
        if split not in self._encoded:
            self._encoded[split] = encode(model.captioner, data, self.config.batch_size)
        return decode_and_score(model.captioner, self._encoded[split], data, **options)

    def _cost(self, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Times of captions whose references are evenly spread in length, and throughputs."""
        model, data = self._open(folder), self.data["test_composition"]
        lengths = reference_lengths(data)
        order = np.argsort(lengths, kind="stable")
        rows = order[np.linspace(0, len(order) - 1, min(self.config.n_latency, len(order))).astype(int)]
        images = [data.rows[int(row)]["image"] for row in rows]
        model.caption(images[:2], batch_size=1, **options)
        timed = [
            {**asdict(caption), "reference words": round(float(lengths[row]), 2)}
            for row, caption in zip(rows, time_captions(model, images, **options), strict=True)
        ]
        rates = {str(size): time_throughput(model, images, size, **options) for size in self.config.throughput}
        return {"timed": timed, "captions a second": rates}

    def _open(self, folder: Path) -> VislexCaptioner:
        """A captioner; all must see the same frozen features."""
        if folder not in self._models:
            model = open_caption_model(folder, device=self.config.device, dtype="float32")
            assert isinstance(model, VislexCaptioner)
            features = weights_digest(model.captioner.encoder)
            if self._features not in (None, features):
                raise ConfigError(
                    f"the encoder of '{folder}' has other weights than those of the other arms; all arms of a "
                    "comparison see the same frozen features: give --encoder and --arm that fit"
                )
            self._features = features
            self._models = {folder: model}  # one at a time in memory
        return self._models[folder]

    def _row(self, where: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        row = self.file.row({"style": self.style, **where}, make)
        assert row is not None
        return row


def reference_lengths(data: CaptionData) -> np.ndarray:
    """Mean number of words of each image's references, float[N]."""
    return np.array(
        [np.mean([len(text.split()) for text in data.record.references[identity]]) for identity in data.record.ids]
    )
