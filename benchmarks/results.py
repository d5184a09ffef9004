"""Result files: what a run was, what it scored image by image, and how it was made.

One ``results.json`` holds the data sets that were used (ids, references, a few images) and the runs. Runs are only
ever added; a run is found again by its key, the hash of all that determines its numbers, so ``compare`` skips it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vislex.errors import DataError

__all__ = [
    "DataRecord",
    "ModelInfo",
    "Origin",
    "Results",
    "ResultsFile",
    "Run",
    "Step",
    "Timing",
    "content_key",
    "locked",
    "read_results",
    "replace_text",
]

FORMAT: Literal["vislex-results@1"] = "vislex-results@1"
Origin = Literal["trained live", "trained", "shipped", "stock", "local", "floor", "ceiling"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ModelInfo(_Record):
    """Which model a run is about.

    Attributes:
        row: Name of its row in tables; runs of one row differ in their seed only.
        encoder: Name of the vision encoder, "@untrained" behind it for the control with random weights.
        decoder: Name of the caption decoder.
        origin: Where the weights came from: "trained live" by this command, "trained" earlier, "shipped" with vislex,
            a "stock" model of another library, a "local" folder; "floor" and "ceiling" are no models.
        seed: Seed of the downstream training; None if there was none.
        parameters: Counts: "total", "trainable", "frozen", and "budgeted" (trainable without token embeddings and
            tied heads).
        sha256: Of the weights.
        training: Config and cost of the training.
        curve: Learning curve, one point an evaluation: ``{"step": ..., "seconds": ..., "loss": ..., ...}``.
    """

    row: str
    encoder: str | None = None
    decoder: str | None = None
    origin: Origin = "local"
    seed: int | None = None
    parameters: dict[str, int] = Field(default_factory=dict)
    sha256: str | None = None
    training: dict[str, Any] | None = None
    curve: list[dict[str, float]] = Field(default_factory=list)


class Timing(_Record):
    """Cost of a run.

    Attributes:
        latency_ms: Median wall time of one caption at batch 1, image encoding included, in milliseconds.
        latency_low_ms: First quartile of the same.
        latency_high_ms: Third quartile of the same.
        n_latency: Number of captions timed one by one.
        throughput: Captions a second at ``batch_size``, image encoding included, rendering and reading excluded.
        batch_size: Batch size of the throughput.
        evaluations: Network evaluations a caption, mean; a guided step counts two, a beam of four counts four a token.
        seconds: Wall time of the whole evaluation.
    """

    latency_ms: float | None = None
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    n_latency: int = 0
    throughput: float | None = None
    batch_size: int = 1
    evaluations: float | None = None
    seconds: float = 0.0


class DataRecord(_Record):
    """The rows that runs were scored on.

    Attributes:
        name: Data set and split, for people.
        split: Name of the split.
        provenance: Version and hashes of the suite, or where the files came from.
        ids: Ids of the rows, in the order of every per-image list.
        references: References by id, all of them.
        prompts: The question or the expression by id, for tasks that have one.
        types: The type of each question by id.
        images: PNG images as data URIs for the first rows, by id: what a report shows.
        attribution: Who drew the images and under which licence.
    """

    name: str
    split: str
    provenance: dict[str, Any] = Field(default_factory=dict)
    ids: list[str]
    references: dict[str, list[str]] = Field(default_factory=dict)
    prompts: dict[str, str] = Field(default_factory=dict)
    types: dict[str, str] = Field(default_factory=dict)
    images: dict[str, str] = Field(default_factory=dict)
    attribution: str | None = None

    @property
    def key(self) -> str:
        return content_key({"name": self.name, "split": self.split, "provenance": self.provenance, "ids": self.ids})


class Step(_Record):
    """A caption after one step of its decoder, as ``vislex.decoders.trace.CaptionStep``.

    Attributes:
        time: What is left to do, in [0, 1].
        words: Words in their order, "___" where nothing is written.
        pieces: Word pieces of each.
        changed: Whether each differs from what stood there before.
    """

    time: float
    words: list[str]
    pieces: list[int]
    changed: list[bool]


class Run(_Record):
    """One evaluation of one model.

    Attributes:
        key: ``content_key`` of what determines the numbers.
        task: "captioning", "retrieval", "latency", "infilling", "vqa" or "segmentation".
        model: The model.
        data: ``DataRecord.key`` of the rows; None for latency.
        provenance: ``vislex.provenance.collect``.
        generation: Prompt and generation settings.
        scorers: Ids of the scorers with their versions.
        n: Number of samples.
        scores: Corpus scores on the official scales.
        per_image: Scores image by image, in the order of ``DataRecord.ids``; "BLEU" holds sufficient statistics.
        captions: Captions, or answers, in the order of ``DataRecord.ids``.
        pictures: Masks drawn over images by id, PNG as data URIs.
        traces: How the captions of some images came about, by id.
        timing: Wall time and network evaluations.
        table: Rows of a benchmark that is itself a table (latency).
    """

    key: str
    task: Literal["captioning", "retrieval", "latency", "infilling", "vqa", "segmentation"]
    model: ModelInfo
    data: str | None = None
    provenance: dict[str, Any]
    generation: dict[str, Any] = Field(default_factory=dict)
    scorers: list[str] = Field(default_factory=list)
    n: int
    scores: dict[str, float] = Field(default_factory=dict)
    per_image: dict[str, list[Any]] = Field(default_factory=dict)
    captions: list[str] = Field(default_factory=list)
    pictures: dict[str, str] = Field(default_factory=dict)
    traces: dict[str, list[Step]] = Field(default_factory=dict)
    timing: Timing = Field(default_factory=Timing)
    table: list[dict[str, Any]] = Field(default_factory=list)


class Results(_Record):
    """The content of a result file.

    Attributes:
        format: Name and version of this schema.
        config: The comparison's config with its margin, as it was written before the first run.
        data: Data records by key.
        runs: Runs in the order in which they finished.
    """

    format: Literal["vislex-results@1"] = FORMAT
    config: dict[str, Any] | None = None
    data: dict[str, DataRecord] = Field(default_factory=dict)
    runs: list[Run] = Field(default_factory=list)

    def find(self, key: str) -> Run | None:
        """The run of a key, None if it has not been made."""
        return next((run for run in self.runs if run.key == key), None)

    def add(self, run: Run, data: DataRecord | None = None) -> None:
        """Adds a run and its data; a key that is there stays as it is."""
        if data is not None:
            self.data.setdefault(data.key, data)
        if self.find(run.key) is None:
            self.runs.append(run)

    def merge(self, other: Results) -> Results:
        """A new object with the data and runs of both; the first config wins."""
        merged = Results(config=self.config or other.config, data={**other.data, **self.data}, runs=list(self.runs))
        for run in other.runs:
            merged.add(run)
        return merged


class ResultsFile:
    """A result file on disk: runs are appended under a lock, and the file is replaced as a whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def load(self) -> Results:
        """Reads the file; an absent one is empty.

        Raises:
            DataError: If it is not a result file.
        """
        if not self.path.exists():
            return Results()
        try:
            return Results.model_validate_json(self.path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the top"
            raise DataError(
                f"{self.path} is not a result file of vislex ({FORMAT}): at {where}: {first['msg']}; "
                "make one with 'vislex compare' or 'vislex bench'"
            ) from error

    def find(self, key: str) -> Run | None:
        """The finished run of a key."""
        return self.load().find(key)

    def append(self, run: Run, data: DataRecord | None = None) -> None:
        """Adds a finished run; other processes may append at the same time."""
        with locked(self.path):
            results = self.load()
            results.add(run, data)
            replace_text(self.path, results.model_dump_json(exclude_defaults=False))

    def set_config(self, config: dict[str, Any]) -> None:
        """Writes the comparison's config, before the first run."""
        with locked(self.path):
            results = self.load()
            results.config = config
            replace_text(self.path, results.model_dump_json(exclude_defaults=False))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes from changing a result file, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_text(path: Path, text: str) -> None:
    """Replaces a file as a whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def read_results(paths: Sequence[str | Path]) -> Results:
    """Joins result files; a folder stands for its ``results.json``.

    Raises:
        DataError: If a file is missing or is no result file.
    """
    merged = Results()
    for path in map(Path, paths):
        file = path / "results.json" if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"there is no result file '{file}'; make one with 'vislex compare' or 'vislex bench'")
        merged = merged.merge(ResultsFile(file).load())
    return merged


def content_key(values: Mapping[str, Any]) -> str:
    """Hash of plain JSON values that does not depend on the order of keys; 16 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
