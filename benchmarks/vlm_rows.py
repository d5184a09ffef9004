"""What ``bench vqa`` and ``bench segmentation`` share: opened models with their facts, and the rows they are asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vislex import provenance
from vislex.benchmarks.caption_models import TRAINING, folder_hash, learning_curve, parameter_counts, read_json
from vislex.benchmarks.results import DataRecord, ModelInfo, Run, Timing, content_key
from vislex.benchmarks.summary import UNTRAINED
from vislex.data import load_suite
from vislex.data.sources import describe_source
from vislex.encoders.sources import is_untrained
from vislex.errors import ConfigError
from vislex.hardware import resolve_device, resolve_dtype
from vislex.shipped import model_folder

if TYPE_CHECKING:
    import torch

    from vislex.adapters.vlm import VisionLanguageModel
    from vislex.adapters.vlm_ask import Answer

__all__ = [
    "AnsweringModel",
    "Progress",
    "bound_run",
    "check_names",
    "chunks_of",
    "model_run",
    "open_model",
    "rows_and_record",
    "rows_of_files",
    "timing_of",
]

Progress = Callable[[int], None]


class AnsweringModel(Protocol):
    """What is asked: a ``VisionLanguageModel``, or a ``HostModel``."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def ask(self, images: Any, prompts: Sequence[str], **options: Any) -> list[Answer]:
        """An answer to each prompt on its image; see ``vislex.adapters.vlm_ask.ask``."""
        ...


def check_names(names: Sequence[str]) -> None:
    """Refuses models that could not be told apart in a table, or none.

    Raises:
        ConfigError: If there is no model, or two folders have one name.
    """
    if not names:
        raise ConfigError("no model given; pass --model FOLDER of a vision-language model (vislex train sft)")
    rows = [Path(name).resolve().name for name in names]
    if len(set(rows)) < len(rows):
        raise ConfigError(f"two models have one name among {', '.join(rows)}; rename a folder")


def open_model(name: str, *, device: str = "auto", dtype: str = "float32") -> tuple[VisionLanguageModel, ModelInfo]:
    """Opens a vision-language model, adapters (merged) or a shipped model, and says what it is; its row is its name."""
    from vislex.adapters.merging import open_vlm

    target = resolve_device(device)
    model = open_vlm(name, dtype=resolve_dtype(dtype, target)).to(target)
    folder = model_folder(name)
    encoder = model.encoder.config.name or type(model.encoder).__name__
    record = read_json(folder / "run.json")
    connector = model.connector.config.model_type.removeprefix("vislex_connector_")
    kept = {key: record[key] for key in TRAINING if key in record}
    return model, ModelInfo(
        row=folder.resolve().name,
        encoder=encoder + (UNTRAINED if is_untrained(model.encoder.config) else ""),
        decoder=f"{connector} + {model.llm.config.model_type}",
        origin="local" if Path(name).is_dir() else "shipped",
        seed=record.get("seed"),
        parameters=parameter_counts(model),
        sha256=folder_hash(folder),
        training=kept or None,
        curve=learning_curve(folder),
    )


def rows_of_files(data: str) -> bool:
    """Whether a data set is read from files (``SOURCE:FOLDER``), not drawn."""
    return ":" in data


def rows_and_record(
    task: str, data: str, *, split: str, size: int, seed: int, prompt: str, kind: str | None = None, **options: Any
) -> tuple[Any, DataRecord]:
    """The rows of a task, and what a result file keeps of them (without images).

    Args:
        task: "vqa" or "segmentation".
        data: A suite, or ``SOURCE:FOLDER``.
        split: Its split.
        size: Rows.
        seed: Of a drawn suite.
        prompt: Column of what is asked.
        kind: Column of what rows are told apart by.
        **options: Further options of ``load_suite``.
    """
    options |= {} if rows_of_files(data) else {"seed": seed}
    rows = load_suite(data, task, split=split, size=size, **options)
    plain, facts = rows.with_format(None), describe_source(data)
    ids = list(plain["id"])
    return rows, DataRecord(
        name=data.partition(":")[0],
        split=split,
        provenance={**facts.provenance, **options, "task": task},
        ids=ids,
        prompts=dict(zip(ids, plain[prompt], strict=True)),
        types={} if kind is None else dict(zip(ids, plain[kind], strict=True)),
        attribution=facts.attribution,
    )


def model_run(
    task: Any,
    model: AnsweringModel,
    info: ModelInfo,
    record: DataRecord,
    generation: dict[str, Any],
    *,
    key: str | None = None,
    **fields: Any,
) -> Run:
    """A run of a model with its key (of the weights' hash if None) and provenance; ``fields`` are the figures."""
    dtype = str(model.dtype).removeprefix("torch.")
    described = {"task": task, "row": info.row, "model": info.sha256, "data": record.key, "dtype": dtype}
    return Run(
        key=key or content_key({**described, "generation": generation, "scorers": fields.get("scorers")}),
        task=task,
        model=info,
        data=record.key,
        provenance=provenance.collect(seed=info.seed, device=str(model.device), dtype=dtype),
        generation=generation,
        n=len(record.ids),
        **fields,
    )


def bound_run(task: Any, row: str, origin: Any, record: DataRecord, *, seed: int | None = None, **fields: Any) -> Run:
    """A run of what is no model: a floor or a ceiling."""
    described = {"task": task, "bound": row, "data": record.key, "seed": seed, "scorers": fields.get("scorers")}
    return Run(
        key=content_key({**described, "scores": fields.get("scores")}),
        task=task,
        model=ModelInfo(row=row, origin=origin, seed=seed),
        data=record.key,
        provenance=provenance.collect(seed=seed, device=None, dtype=None),
        n=len(record.ids),
        **fields,
    )


def timing_of(seconds: Sequence[float], new_tokens: Sequence[int], batch_size: int) -> Timing:
    """Answers a second, and tokens an answer as network evaluations."""
    return Timing(
        throughput=round(len(seconds) / max(float(np.sum(seconds)), 1e-9), 4),
        batch_size=batch_size,
        evaluations=float(np.mean(new_tokens)),
        seconds=round(float(np.sum(seconds)), 3),
    )


def chunks_of(rows: Any, size: int) -> Any:
    """Lists of opened rows, ``size`` at a time."""
    queue = iter(rows)
    while chunk := list(itertools.islice(queue, size)):
        yield chunk
