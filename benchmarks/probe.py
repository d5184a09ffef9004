"""Probes of frozen encoders: which of the suite's factors their features hold, and how easily they are read.

Every encoder answers the same questions on the same images; from the second on, each is held against the first with
paired intervals over images and seeds. Floors stand beside them: the largest class, and chance.

    vislex bench probe --encoder siglip-tiny --encoder efficientnet-lite0 --encoder siglip-tiny@untrained

A finished row is found in the result file and skipped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from pydantic import Field

from vislex.benchmarks.caption_models import parameter_counts
from vislex.benchmarks.probe_targets import TIERS, class_counts, factor_labels
from vislex.benchmarks.probes import PROBES, ProbeName, ProbeSettings, run_probe
from vislex.benchmarks.results import content_key
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.summary import UNTRAINED
from vislex.config import Config
from vislex.data import openmoji
from vislex.data.openmoji.manifest import nouns
from vislex.data.sources import load_suite
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError, DataError
from vislex.hardware import resolve_device
from vislex.modules.digest import weights_digest
from vislex.processing import create_image_processor
from vislex.provenance import collect
from vislex.training.cache import rows_digest
from vislex.training.features import FeatureStore, cached_features

__all__ = ["ProbeBench", "ProbeData", "file_of", "load_data", "open_encoder", "probe_rows", "tier_factors", "tier_hits"]

SCORER = "probe-accuracy@1"
RESULTS = Path(__file__).parent / "results" / "probe.json"


class ProbeBench(Config):
    """Options of ``vislex bench probe``.

    Attributes:
        split: Split of the images that are asked about; probes train on train and choose on val.
        train_size: Training images. The factors of an object are asked where it lies alone: in three scenes of ten.
        val_size: Images on which learning rates are chosen.
        size: Images that are asked about.
        seeds: Number of seeds of the probes' training.
        probes: Which probes.
        settings: Sizes and steps of the probes.
    """

    split: str = "test_composition"
    vocabulary: Literal["core", "default", "large"] = "core"
    image_size: int = Field(48, ge=16)
    train_size: int = Field(20000, ge=1)
    val_size: int = Field(2000, ge=1)
    size: int = Field(10000, ge=1)
    seeds: int = Field(1, ge=1)
    probes: list[ProbeName] = Field(list(PROBES), min_length=1)
    settings: ProbeSettings = ProbeSettings()


@dataclass(frozen=True)
class ProbeData:
    """Images and labels of the splits "train", "val" and "test".

    Attributes:
        rows: Data sets with ``image``.
        labels: ``factor_labels`` of each.
        classes: Number of classes of every factor.
        key: Hash of all rows.
    """

    rows: dict[str, Dataset]
    labels: dict[str, dict[str, np.ndarray]]
    classes: dict[str, int]
    key: str


def load_data(bench: ProbeBench) -> ProbeData:
    """The scenes of a benchmark; the same for every encoder."""
    concepts = list(nouns(bench.vocabulary))
    options: dict[str, Any] = {"vocabulary": bench.vocabulary, "image_size": bench.image_size}
    sizes = {"train": ("train", bench.train_size), "val": ("val", bench.val_size), "test": (bench.split, bench.size)}
    rows = {name: load_suite("openmoji", "images", split=s, size=n, **options) for name, (s, n) in sizes.items()}
    records = {name: [json.loads(text) for text in data.with_format(None)["factors"]] for name, data in rows.items()}
    unknown = {item["concept"] for record in records["test"] for item in record["objects"]} - set(concepts)
    if unknown:
        raise DataError(f"'{bench.split}' shows names that train does not ({min(unknown)}); probe another split")
    labels = {name: factor_labels(found, concepts) for name, found in records.items()}
    key = content_key({name: rows_digest(data) for name, data in rows.items()} | {"image_size": bench.image_size})
    return ProbeData(rows, labels, class_counts(concepts), key)


def open_encoder(name: str, *, seed: int = 0) -> VisionEncoder:
    """A pretrained encoder by its name, or with "@untrained" behind it the same with random weights of a seed."""
    if name.endswith(UNTRAINED):
        return create_encoder(name.removesuffix(UNTRAINED), seed=seed)
    return create_encoder(name, pretrained=True)


def probe_rows(
    names: Sequence[str],
    bench: ProbeBench,
    file: RowFile,
    *,
    data: ProbeData | None = None,
    device: str = "auto",
    batch_size: int = 64,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Probes encoders; rows that the file holds are not measured again.

    Args:
        names: Encoders, the first is what the others are held against; "@untrained" behind a name is its control.
        bench: Options.
        file: Where rows are kept.
        data: Of ``load_data``; loaded if None.
        device: Where the encoders run.
        batch_size: Images a forward of an encoder.
        on_progress: Called with a line before each step.

    Returns:
        One row an encoder, probe and seed, with "scores" (accuracy by factor and by tier) and "hits" (packed by image).

    Raises:
        ConfigError: If a name is given twice.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"an encoder is named twice among {', '.join(names)}")
    data = data or load_data(bench)
    rows = []
    for name in names:
        on_progress(name)
        encoder = open_encoder(name).to(resolve_device(device))
        features, sha256 = _Features(encoder, data, batch_size), weights_digest(encoder)
        for probe in bench.probes:
            rate = None
            for seed in range(bench.seeds):
                on_progress(f"{name}: {probe}, seed {seed}")
                identity = {
                    "encoder": name,
                    "sha256": sha256,
                    "probe": probe,
                    "seed": seed,
                    "data": data.key,
                    "settings": bench.settings.model_dump(mode="json"),
                    "scorer": SCORER,
                }
                made = _Asked(encoder, features, data, bench, probe, seed, rate)
                row = file.row(identity, made)
                assert row is not None
                rate = row["lr"]
                rows.append(row)
    return rows


class _Features:
    """Features of all splits, encoded when first asked for."""

    def __init__(self, encoder: VisionEncoder, data: ProbeData, batch_size: int) -> None:
        self.encoder, self.data, self.batch_size = encoder, data, batch_size
        self._stores: dict[str, FeatureStore] = {}

    def __call__(self) -> dict[str, FeatureStore]:
        if not self._stores:
            processor = create_image_processor(self.encoder.spec)
            options = {"batch_size": self.batch_size, "provenance": openmoji.provenance()}
            for split, rows in self.data.rows.items():
                self._stores[split] = cached_features(self.encoder, rows, processor, **options)
        return self._stores


@dataclass(frozen=True)
class _Asked:
    """Makes the values of one row."""

    encoder: VisionEncoder
    features: _Features
    data: ProbeData
    bench: ProbeBench
    probe: ProbeName
    seed: int
    rate: float | None

    def __call__(self) -> dict[str, Any]:
        labels, classes = self.data.labels, self.data.classes
        options: dict[str, Any] = {"seed": self.seed, "lr": self.rate}
        probed = run_probe(self.probe, self.features(), labels, classes, self.bench.settings, **options)
        hits = {name: (probed.predictions[name] == labels["test"][name])[_asked(labels, name)] for name in TIERS}
        scores = {name: float(values.mean()) for name, values in hits.items()}
        for tier in dict.fromkeys(TIERS.values()):
            scores[f"{tier} named"] = float(tier_hits(hits, labels, tier).mean())
        return {
            "scores": scores,
            "hits": {name: _pack(values) for name, values in hits.items()},
            "n": {name: len(values) for name, values in hits.items()},
            "lr": probed.lr,
            "tokens": self.encoder.spec.n_tokens,
            "dim": self.encoder.spec.dim,
            "parameters": parameter_counts(self.encoder)["total"],
        }


def file_of(out: Path | None, **extra: Any) -> RowFile:
    """The result file of the benchmark."""
    path = out or RESULTS
    path = path if path.suffix == ".json" else path / "probe.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return RowFile(path, "probe", collect(suite=openmoji.provenance(), **extra))


def tier_hits(hits: Mapping[str, np.ndarray], labels: Mapping[str, Mapping[str, np.ndarray]], tier: str) -> np.ndarray:
    """Mean over a tier's factors for each image with a single object, float[M]."""
    single = labels["test"]["concept"] >= 0
    values = [hits[name] if len(hits[name]) == single.sum() else hits[name][single] for name in tier_factors(tier)]
    mean: np.ndarray = np.mean([value.astype(np.float64) for value in values], axis=0)
    return mean


def tier_factors(tier: str) -> list[str]:
    """The factors of a tier; not the count, which is one wherever the others are asked."""
    return [name for name, own in TIERS.items() if own == tier and name != "count"]


def _asked(labels: Mapping[str, Mapping[str, np.ndarray]], factor: str) -> np.ndarray:
    asked: np.ndarray = labels["test"][factor] >= 0
    return asked


def _pack(hits: np.ndarray) -> str:
    return base64.b64encode(np.packbits(hits).tobytes()).decode()
