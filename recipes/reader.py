"""Recipe ``reader``: a small vision transformer that reads the suite's factors, the instrument of later measurements.

It sees drawings and combinations of every split, in scenes of a seed that no measurement uses: what it reads must not
depend on what the models under test were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from pydantic import Field
from torch import Tensor, nn
from transformers import set_seed

import vislex.data
from vislex.config import Config
from vislex.data import openmoji
from vislex.data.openmoji.manifest import nouns
from vislex.data.openmoji.transform import SceneTransform
from vislex.metrics.factors import score_factors_per_image
from vislex.metrics.reader import Reader, ReaderConfig
from vislex.metrics.reader_targets import factor_targets, reader_loss
from vislex.recipes.source import column
from vislex.training.captions import generator
from vislex.training.draws import Draws
from vislex.training.images import cached_images, normalize_images
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import finish_run, model_card, start_run
from vislex.training.settings import TrainingSettings, total_draws
from vislex.training.sketch import Sketch
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "ReaderRecipeConfig", "ReaderSizes", "factor_accuracy", "run", "sketch"]

SPLITS = ("train", "test_composition", "test_artist")  # together: every drawing, every combination


_PARTS = {"backbone": PartSettings(), "object_head": PartSettings(), "image_head": PartSettings()}


class ReaderSizes(Config):
    """Sizes of the network, as ``ReaderConfig``."""

    stem_channels: list[int] = Field([32, 64, 128], min_length=1)
    hidden_size: int = Field(128, ge=8)
    num_hidden_layers: int = Field(4, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    mlp_ratio: float = Field(3.0, gt=0)


class ReaderRecipeConfig(TrainingSettings):
    """Configuration of ``reader``.

    Attributes:
        vocabulary: Nouns that it reads: 100, 320 or all.
        train_size: Scenes, a third of each split.
        val_size: Scenes of val, test_composition and test_artist that each validation reads.
        data_seed: Of the training scenes; the suite's own seed 0 is what is read, and is refused.
        noise: Largest standard deviation of the pixel noise, of 1; each image draws its own up to this.
    """

    budget_table: ClassVar[str] = "reader"

    vocabulary: Literal["core", "default", "large"] = "core"
    image_size: int = Field(48, ge=16)
    network: ReaderSizes = ReaderSizes()
    train_size: int = Field(45000, ge=3)
    val_size: int = Field(1000, ge=1)
    data_seed: int = Field(1, ge=1)
    render_workers: int = Field(2, ge=0)
    noise: float = Field(0.05, ge=0)
    batch_size: int = Field(64, ge=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)


def run(config: ReaderRecipeConfig) -> Path:
    """Trains a reader.

    Returns:
        The output folder: a ``Reader`` in bf16 with its image processor and card, ``training.jsonl``, ``run.json``.
    """
    output = start_run("reader", config)
    sizes = [len(part) for part in np.array_split(np.arange(config.train_size), len(SPLITS))]
    parts = [_suite(config, split, n, config.data_seed) for split, n in zip(SPLITS, sizes, strict=True)]
    plain = concatenate_datasets([part.with_format(None) for part in parts])
    train = plain.with_transform(SceneTransform(config.image_size))
    concepts = list(nouns(config.vocabulary))
    targets = factor_targets(_factors(train), concepts)
    cached = {"provenance": openmoji.provenance(), "workers": config.render_workers}
    images = cached_images(train, config.image_size, **cached)
    held_out = {split: _suite(config, split, config.val_size, 0) for split in ("val", *SPLITS[1:])}

    set_seed(config.seed)  # here: rendering draws random numbers too, unless the images are cached
    reader = _build(config, concepts)

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        pixels = normalize_images(images[rows])
        generators = [generator(config.seed, int(position)) for position in positions]
        noise = [2 * config.noise * g.random() * g.standard_normal(pixels.shape[1:], np.float32) for g in generators]
        pixels = (pixels + torch.from_numpy(np.stack(noise).astype(np.float32))).clamp(-1, 1)
        return {"pixel_values": pixels, **{name: torch.from_numpy(value[rows]) for name, value in targets.items()}}

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Reader)
        figures: dict[str, float] = {}
        for split, rows in held_out.items():
            figures |= {f"{split}_{name}": value for name, value in factor_accuracy(model, rows).items()}
        return figures

    trainer = PartTrainer(
        reader,
        config,
        parts=_PARTS,
        draws=Draws(len(images), total_draws(config), seed=config.seed, fetch=fetch),
        output_dir=output,
        loss=_loss,
        validate=validate,
        title="reader",
    )
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        reader.to(torch.bfloat16).save_pretrained(output)
        reader.image_processor.save_pretrained(output)
        (output / "README.md").write_text(_card(config, reader, figures), encoding="utf-8")
        finish_run("reader", config, output, figures, trainer, suite=openmoji.provenance())
    return output


def _build(config: ReaderRecipeConfig, concepts: list[str]) -> Reader:
    return Reader(
        ReaderConfig(
            concepts=concepts,
            suite=openmoji.provenance()["suite"],
            image_size=config.image_size,
            **config.network.model_dump(),
        )
    )


def _loss(model: Any, batch: dict[str, Any]) -> Tensor:
    return reader_loss(model(pixel_values=batch.pop("pixel_values")), batch)


def factor_accuracy(reader: Reader, rows: Dataset, *, batch_size: int = 64) -> dict[str, float]:
    """Accuracy of every factor on images of the suite: "<factor>" over all, "single_<factor>" where one object lies.

    Args:
        reader: A reader that knows the rows' concepts.
        rows: Rows with ``image`` and ``factors``.
        batch_size: Images a forward.
    """
    read, true = [], _factors(rows)
    for start in range(0, len(rows), batch_size):
        read += reader.read(rows[start : start + batch_size]["image"], batch_size=batch_size)
    single = np.array([len(record["objects"]) == 1 for record in true])
    scores = score_factors_per_image(read, true)
    figures = {name: float(values.mean()) for name, values in scores.items()}
    if single.any():
        figures |= {f"single_{name}": float(values[single].mean()) for name, values in scores.items()}
    return figures


def _suite(config: ReaderRecipeConfig, split: str, size: int, seed: int) -> Dataset:
    options = {"seed": seed, "image_size": config.image_size, "vocabulary": config.vocabulary}
    return vislex.data.load_suite("openmoji", "images", split=split, size=size, **options)


def _factors(rows: Dataset) -> list[dict[str, Any]]:
    return [json.loads(text) for text in column(rows, "factors")]


def _card(config: ReaderRecipeConfig, reader: Reader, figures: dict[str, float]) -> str:
    assert reader.config.concepts is not None
    return model_card(
        "reader",
        config,
        figures,
        tags=["image-classification", "measurement"],
        summary=(
            f"Reads the factors of the suite's scenes from images of {config.image_size} px: "
            f"{len(reader.config.concepts)} names in nine places, size, artist, rotation, hue and exact place of each "
            f"object, and the background. {sum(p.numel() for p in reader.parameters()):,} parameters; "
            '`vislex.metrics.load_reader("reader").read(images)`. Figures: accuracy on real images of held-out scenes '
            "(all, and those with a single object); measured factors count as right within the tolerances of "
            "`factor-accuracy@1`."
        ),
    )


def sketch(config: ReaderRecipeConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    concepts = list(nouns(config.vocabulary))
    targets = factor_targets(_factors(_suite(config, "train", 1, config.data_seed)), concepts)

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        pixels = torch.rand(samples, 3, config.image_size, config.image_size)
        rows = np.zeros(samples, dtype=np.int64)
        return {"pixel_values": pixels, **{name: torch.from_numpy(value[rows]) for name, value in targets.items()}}

    yield Sketch(config, _build(config, concepts), _PARTS, batch, loss=_loss)


RECIPE = Recipe(ReaderRecipeConfig, run, sketch)
