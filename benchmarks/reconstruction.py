"""Reconstruction: what an image's tokens make a frozen text-to-image model draw, against the number of tokens.

For each budget the denoising loss of the same images under the same times and noise, images drawn from the same start
noise, what the reader reads from them, pixels, features, retrieval, and distances between sets. Beside the budgets
stand the original (what the reader reads from it is the ceiling), its true dense caption, and the empty prompt (the
floor).

    vislex bench reconstruction --model runs/vilex --size 2000

A finished row is found in the result file and skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from pydantic import Field

from vislex.benchmarks.results import content_key
from vislex.benchmarks.row_file import RowFile
from vislex.config import Config
from vislex.data import openmoji
from vislex.data.sources import load_suite
from vislex.diffusion.guidance import generate, text_free_guidance
from vislex.diffusion.objectives import ReconstructionObjective
from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.t2i.base import Condition
from vislex.errors import CheckpointError, ConfigError, DataError
from vislex.hardware import resolve_device
from vislex.metrics.distances import SetScore, score_frechet, score_inception, score_kernel
from vislex.metrics.factors import FACTOR_ACCURACY, score_factors_per_image
from vislex.metrics.image_features import FeatureExtractor, Features, as_uint8, load_extractor
from vislex.metrics.reader import Reader, load_reader
from vislex.metrics.reconstruction import score_pairs
from vislex.modules.digest import weights_digest
from vislex.provenance import collect
from vislex.shipped import model_folder
from vislex.training.cache import rows_digest
from vislex.vilex import ViLex

__all__ = [
    "SCORERS", "MeasuredRung", "ReconstructionBench", "Rung", "Scenes", "Told", "Tools", "file_of", "load_scenes",
    "load_tools", "open_model", "reconstruction_rows", "references",
]  # fmt: skip

RESULTS = Path(__file__).parent / "results" / "reconstruction.json"
REFERENCES = ("original", "true caption", "empty prompt")
SCORERS = [FACTOR_ACCURACY.id, "psnr@1", "ssim@1", "feature-cosine@1", "retrieval-top1@1", "frechet-distance@1"]
SCORERS += ["kernel-distance@1", "inception-score@1", "paired-denoising-loss@1"]


class ReconstructionBench(Config):
    """Options of ``vislex bench reconstruction``.

    Attributes:
        split: Split of the images.
        size: Images that are drawn, read and compared.
        budgets: Numbers of tokens; None takes 1, 4, 16, 64 and all.
        loss_images: Images of the denoising loss.
        loss_draws: Times and noises an image.
        num_inference_steps: Of the drawing.
        guidance_scale: Guidance by the condition against the empty prompt; 1 is none.
        reader: The reader, shipped or a folder; None reads nothing.
        extractor: Feature extractor: efficientnet-lite0, inception:FILE or an encoder; never the one under test.
        splits: Parts of the Inception score.
        shown: Images on the sheet.
    """

    split: str = "test_composition"
    vocabulary: Literal["core", "default", "large"] = "core"
    size: int = Field(500, ge=2)
    budgets: list[int] | None = None
    loss_images: int = Field(500, ge=1)
    loss_draws: int = Field(4, ge=1)
    num_inference_steps: int = Field(30, ge=1)
    guidance_scale: float = Field(1.0, ge=0)
    reader: str | None = "reader"
    extractor: str = "efficientnet-lite0"
    splits: int = Field(1, ge=1)
    shown: int = Field(10, ge=1)


@dataclass(frozen=True)
class Scenes:
    """Images of a benchmark at the size that the text-to-image model draws.

    Attributes:
        rows: With ``image`` and ``captions``.
        factors: Their factor records.
        originals: uint8[H, W, 3] of each.
        key: Hash of the rows.
    """

    rows: Dataset
    factors: list[dict[str, Any]]
    originals: list[np.ndarray]
    key: str

    def caption(self, index: int) -> str:
        """The first true dense caption."""
        return str(self.rows.with_format(None)[index]["captions"][0])


@dataclass(frozen=True)
class Tools:
    """Instruments that are the same for all models."""

    reader: Reader | None
    extractor: FeatureExtractor
    _real: dict[tuple[str, int], Features] = field(default_factory=dict, repr=False)

    def features(self, originals: Sequence[Any], key: str) -> Features:
        """Features of real images, taken once; ``key`` names the scenes that they are the first of."""
        place = key, len(originals)
        if place not in self._real:
            self._real[place] = self.extractor(originals)
        return self._real[place]


@dataclass(frozen=True)
class Rung:
    """A way to tell the text-to-image model of images.

    Attributes:
        name: "4 tokens", "true caption", ...
        tokens: Number of tokens; None for a reference.
        condition: Of rows int64[B]; None for the original itself.
    """

    name: str
    tokens: int | None
    condition: Callable[[np.ndarray], Condition] | None


def load_scenes(bench: ReconstructionBench, image_size: int) -> Scenes:
    """The scenes, drawn at a text-to-image model's size."""
    size = max(bench.size, bench.loss_images)
    options: dict[str, Any] = {"vocabulary": bench.vocabulary, "image_size": max(image_size, 16), "style": "dense"}
    rows = load_suite("openmoji", split=bench.split, size=size, **options)
    factors = [json.loads(text) for text in rows.with_format(None)["factors"]]
    originals = [np.array(row["image"].resize((image_size, image_size))) for row in rows]
    return Scenes(rows, factors, originals, content_key({"rows": rows_digest(rows), "image_size": image_size}))


def load_tools(bench: ReconstructionBench) -> Tools:
    """Reader and feature extractor."""
    reader = None if bench.reader is None else load_reader(bench.reader)
    return Tools(reader, load_extractor(bench.extractor))


def open_model(folder: str, device: str = "auto") -> ViLex:
    """A ViLex model with its text-to-image model, in eval mode: of a folder, or a shipped one by its name.

    Raises:
        CheckpointError: If there is none.
    """
    place = model_folder(folder)
    if not (place / "config.json").is_file():
        raise CheckpointError(f"'{folder}' is no folder of a ViLex model; train one with 'vislex train vilex_pretrain'")
    model: ViLex = ViLex.from_pretrained(place)
    assert model.t2i is not None
    return model.to(resolve_device(device)).eval()


def reconstruction_rows(
    name: str,
    model: ViLex,
    bench: ReconstructionBench,
    file: RowFile,
    scenes: Scenes,
    tools: Tools,
    *,
    batch_size: int = 32,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
    """Measures a model at every budget, and the references; rows that the file holds are not measured again.

    Args:
        name: Of the model in tables.
        model: With its text-to-image model attached.
        bench: Options.
        file: Where rows are kept.
        scenes: Of ``load_scenes``.
        tools: Of ``load_tools``.
        batch_size: Images a forward.
        seed: Of start noise, times and noise.
        on_progress: Called with a line before each step.

    Returns:
        One row a rung, with "scores", "per_image" and "sets"; and the first drawn images of each rung, for a sheet.

    Raises:
        ConfigError: If a budget is larger than what was trained.
    """
    digest, rows, shown = weights_digest(model), [], {}
    for rung in _rungs(model, bench, scenes):
        on_progress(f"{name}: {rung.name}")
        measured = MeasuredRung(model.t2i, model.objective, rung, bench, scenes, tools, batch_size, seed)
        identity = {
            "model": name,
            "rung": rung.name,
            "tokens": rung.tokens,
            "sha256": digest,
            "t2i": model.t2i.sha256,
            "data": scenes.key,
            "bench": bench.model_dump(mode="json", exclude={"shown", "budgets"}),
            "reader": None if tools.reader is None else weights_digest(tools.reader),
            "extractor": tools.extractor.sha256,
            "seed": seed,
            "scorers": SCORERS,
        }
        row = file.row(identity, measured)
        assert row is not None
        rows.append(row)
        n = min(bench.shown, bench.size)
        shown[rung.name] = scenes.originals[:n] if rung.condition is None else measured.draw(n)
    return rows, shown


def file_of(out: Path | None, **extra: Any) -> RowFile:
    """The result file of the benchmark."""
    path = out or RESULTS
    path = path if path.suffix == ".json" else path / "reconstruction.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return RowFile(path, "reconstruction", collect(suite=openmoji.provenance(), **extra))


def _rungs(model: ViLex, bench: ReconstructionBench, scenes: Scenes) -> Iterator[Rung]:
    most = model.encoder.config.n_tokens
    budgets = bench.budgets or [*(k for k in (1, 4, 16, 64) if k < most), most]
    if wrong := [k for k in budgets if not 1 <= k <= most]:
        raise ConfigError(f"budgets {wrong} are not among 1 to {most}, the tokens that the model was trained with")
    yield from references(model.t2i, scenes)
    for k in budgets:
        yield Rung(f"{k} tokens", k, Told(model, scenes, k))


def references(t2i: TextToImage, scenes: Scenes) -> list[Rung]:
    """The originals, their true captions and the empty prompt."""
    return [
        Rung(REFERENCES[0], None, None),
        Rung(REFERENCES[1], None, lambda rows: t2i.condition([scenes.caption(int(row)) for row in rows])),
        Rung(REFERENCES[2], None, lambda rows: t2i.condition([""] * len(rows))),
    ]


@dataclass(frozen=True)
class Told:
    """Conditions of images from their first ``k`` tokens."""

    model: ViLex
    scenes: Scenes
    k: int

    def __call__(self, rows: np.ndarray) -> Condition:
        placed: dict[str, Any] = {"order": self.model.config.order, "inject": self.model.config.inject}
        return self.model.t2i.condition_from_soft_tokens(self.tokens(rows), **placed)

    def tokens(self, rows: np.ndarray) -> torch.Tensor:
        """float[B, k, sum(widths)]."""
        images = [self.scenes.rows[int(row)]["image"] for row in rows]
        return self.model.encode(images, n_tokens=self.k).tokens


class MeasuredRung:
    """Makes the values of one row: what a text-to-image model does when it is told of images in one way."""

    def __init__(
        self,
        t2i: TextToImage,
        objective: ReconstructionObjective,
        rung: Rung,
        bench: ReconstructionBench,
        scenes: Scenes,
        tools: Tools,
        batch_size: int,
        seed: int,
    ) -> None:
        self.t2i, self.objective = t2i, objective
        self.rung, self.bench, self.scenes, self.tools = rung, bench, scenes, tools
        self.batch_size, self.seed = batch_size, seed

    def __call__(self) -> dict[str, Any]:
        originals = self.scenes.originals[: self.bench.size]
        per_image: dict[str, np.ndarray] = {}
        sets: dict[str, Any] = {}
        if self.rung.condition is None:
            images = originals
        else:
            per_image["loss"] = self.losses()
            images = self.draw(self.bench.size)
            made, real = self.tools.extractor(images), self.tools.features(originals, self.scenes.key)
            per_image |= score_pairs(images, originals, features=(made, real))
            sets = _set_scores(made, real, self.tools.extractor, self.bench.splits)
        if self.tools.reader is not None:
            read = self.tools.reader.read(images, batch_size=self.batch_size)
            per_image |= score_factors_per_image(read, self.scenes.factors[: self.bench.size])
        return {
            "scores": {name: float(values.mean()) for name, values in per_image.items()},
            "n": {name: len(values) for name, values in per_image.items()},
            "per_image": {name: [round(float(value), 5) for value in values] for name, values in per_image.items()},
            "sets": sets,
            "features": self.tools.extractor.describe(),
        }

    def draw(self, n: int) -> list[np.ndarray]:
        """The first ``n`` images drawn, uint8[H, W, 3] each; image i starts from the noise of ``seed + i``."""
        made: list[np.ndarray] = []
        for rows in _batches(n, self.batch_size):
            made += as_uint8(list(_drawn(self.t2i, self._condition(rows), rows + self.seed, self.bench)))
        return made

    @torch.no_grad()
    def losses(self) -> np.ndarray:
        """Denoising loss of each image, float64[N], under times and noise that no rung changes."""
        t2i, objective, found = self.t2i, self.objective, []
        for rows in _batches(self.bench.loss_images, self.batch_size):
            images = [self.scenes.rows[int(row)]["image"] for row in rows]
            latents, condition = t2i.encode_pixels(t2i.preprocess(images)), self._condition(rows)
            total = np.zeros(len(rows))
            for draw in range(self.bench.loss_draws):
                generator = torch.Generator().manual_seed((self.seed * 7919 + draw) * 1_000_003 + int(rows[0]))
                noise = objective.draw(t2i, latents, generator)
                total += objective(t2i, latents, condition, noise).per_image.double().cpu().numpy()
            found.append(total / self.bench.loss_draws)
        return np.concatenate(found)

    def _condition(self, rows: np.ndarray) -> Condition:
        assert self.rung.condition is not None
        with torch.no_grad():
            return self.rung.condition(rows)


def _drawn(t2i: TextToImage, condition: Condition, seeds: np.ndarray, bench: ReconstructionBench) -> torch.Tensor:
    with torch.no_grad():
        empty = None if bench.guidance_scale == 1 else t2i.condition("")
    branches = text_free_guidance(condition, None, 1.0, empty=empty, guidance=bench.guidance_scale)
    return generate(t2i, branches, seeds=seeds.tolist(), num_inference_steps=bench.num_inference_steps).cpu()


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _set_scores(
    images: Features, originals: Features, extractor: FeatureExtractor, splits: int
) -> dict[str, Mapping[str, Any]]:
    """Distances between the sets; of one that so many images cannot give, the reason stands in its place."""
    scores: dict[str, Callable[[], SetScore]] = {
        "frechet": lambda: score_frechet(images, originals, extractor=extractor),
        "kernel": lambda: score_kernel(images, originals, extractor=extractor),
        "inception": lambda: score_inception(images, extractor=extractor, splits=splits),
    }
    found: dict[str, Mapping[str, Any]] = {}
    for name, score in scores.items():
        try:
            found[name] = score().to_dict()
        except DataError as error:
            found[name] = {"name": name, "value": None, "refused": str(error)}
    return found
