"""Recipe ``mask_tokenizer``: the codes of the codec ``loc_seg``, trained on the masks of a referring data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import set_seed

from vislex.config import Config
from vislex.data.sources import describe_source, load_suite
from vislex.metrics.masks import score_masks
from vislex.recipes.source import DataSettings
from vislex.segmentation.loc_seg import LocSegCodec
from vislex.segmentation.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig
from vislex.training.captions import generator
from vislex.training.codebook import CodebookCallback
from vislex.training.draws import Draws
from vislex.training.masks import cached_masks
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import finish_run, model_card, start_run
from vislex.training.settings import total_draws
from vislex.training.sketch import Sketch
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "CodebookSettings", "MaskTokenizerSettings", "ceiling", "run", "sketch"]


_PARTS = {"encoder": PartSettings(), "decoder": PartSettings()}


class CodebookSettings(Config):
    """How the codebook is learnt.

    Attributes:
        decay: Of the averages that move the codes.
        warmup: Share of the steps without quantisation, after which the codes start from features.
        dead_below: A code that fewer features of a batch choose, on average, starts again.
        restart_every: Steps between looks for such codes.
        restart_until: Share of the steps after which none starts again.
    """

    decay: float = Field(0.99, ge=0, lt=1)
    warmup: float = Field(0.15, ge=0, lt=1)
    dead_below: float = Field(1.0, ge=0)
    restart_every: int = Field(10, ge=1)
    restart_until: float = Field(0.8, ge=0, le=1)


class MaskTokenizerSettings(DataSettings):
    """Configuration of ``mask_tokenizer``; of its data only masks are read.

    Attributes:
        render_sizes: Sides in pixels at which the suite draws its scenes in turn; empty for stored photographs, whose
            masks have their own size.
        flip: Mirrors half of the masks.
        model: Sizes other than the defaults of ``MaskTokenizerConfig`` (``{num_codes: 256}``).
        save_dtype: Of the weights that are saved.
    """

    budget_table: ClassVar[str] = "mask_tokenizer"

    render_sizes: list[int] = Field([64, 128, 256])
    flip: bool = True
    model: dict[str, Any] = Field(default_factory=dict)
    codebook: CodebookSettings = CodebookSettings()
    precision: Literal["auto", "bf16", "fp32"] = "fp32"  # convolutions are slow backwards in bf16 on a CPU
    save_dtype: Literal["bfloat16", "float32"] = "bfloat16"


def run(config: MaskTokenizerSettings) -> Path:
    """Trains a mask tokenizer.

    Returns:
        The output folder: a ``MaskTokenizer`` with its card, ``training.jsonl``, ``run.json``.
    """
    output = start_run("mask_tokenizer", config)
    set_seed(config.seed)
    model = MaskTokenizer(MaskTokenizerConfig(**config.model)).to(memory_format=torch.channels_last)  # a fifth faster
    facts = describe_source(config.data)
    train = _renderings(config, config.train_split, config.train_size)
    masks = cached_masks(train, model.config.image_size, provenance=facts.provenance)
    held_out = [row["mask"] for row in _renderings(config, config.val_split, config.val_size)[-1]]
    settings = config.codebook
    codebook = CodebookCallback(
        model.codebook,
        decay=settings.decay,
        warmup_steps=round(settings.warmup * config.steps),
        dead_below=settings.dead_below,
        restart_every=settings.restart_every,
        restart_until=round(settings.restart_until * config.steps),
        seed=config.seed,
    )

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        chosen = torch.from_numpy(masks[rows]).float() / 127.5 - 1
        if config.flip:
            mirrored = torch.tensor([generator(config.seed, int(p)).random() < 0.5 for p in positions])
            chosen = torch.where(mirrored[:, None, None], chosen.flip(-1), chosen)
        return {"masks": chosen}

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        result = model(**batch, quantize=codebook.quantizes)
        codebook.update(result.features, None if result.codes is None else result.codes.flatten())
        return result.loss

    trainer = PartTrainer(
        model,
        config,
        parts=_PARTS,
        draws=Draws(len(masks), total_draws(config), seed=config.seed, fetch=fetch),
        output_dir=output,
        loss=loss,
        validate=lambda model: ceiling(model, held_out),  # type: ignore[arg-type]
        title="mask_tokenizer",
        callbacks=[codebook],
    )
    seconds = trainer.fit()["seconds"]
    model.to(getattr(torch, config.save_dtype), memory_format=torch.contiguous_format)
    figures = {"seconds": seconds, **ceiling(model.float().eval(), held_out)}  # of what is saved
    if trainer.is_world_process_zero():
        model.to(getattr(torch, config.save_dtype)).save_pretrained(output)
        (output / "README.md").write_text(_card(config, model, figures, facts.trained_on), encoding="utf-8")
        finish_run("mask_tokenizer", config, output, figures, trainer, suite=facts.provenance)
    return output


def ceiling(model: MaskTokenizer, masks: list[np.ndarray]) -> dict[str, float]:
    """What masks keep on the way through box, codes and back, at their own resolution.

    Args:
        model: The mask tokenizer.
        masks: bool[H, W] each; empty ones are left out.

    Returns:
        "mIoU" and "mIoU_box" (the filled boxes) in [0, 1]; "codes": how many different codes stand in their texts.
    """
    codec = LocSegCodec(model)
    masks = [mask for mask in masks if mask.any()]
    texts = [codec.encode([mask]) for mask in masks]
    decoded = [codec.decode(text, mask.shape) for text, mask in zip(texts, masks, strict=True)]
    used = {code for text in texts for code in text.split("<seg")[1:]}
    return {
        "mIoU": score_masks([item.mask for item in decoded], masks)["mIoU"],
        "mIoU_box": score_masks([item.filled_boxes for item in decoded], masks)["mIoU"],
        "codes": float(len(used)),
    }


def _renderings(config: MaskTokenizerSettings, split: str, size: int | None) -> list[Any]:
    """The split at every size at which it is drawn; once where it is stored."""
    options = [{"image_size": side} for side in config.render_sizes] or [{}]
    return [
        load_suite(config.data, "segmentation", split=split, size=size, **{**config.data_options, **option})
        for option in options
    ]


def _card(config: MaskTokenizerSettings, model: MaskTokenizer, figures: dict[str, float], trained_on: str) -> str:
    sizes = model.config
    return model_card(
        "mask_tokenizer",
        config,
        figures,
        tags=["image-segmentation", "vq-vae"],
        trained_on=trained_on,
        summary=(
            f"A VQ-VAE of {sum(p.numel() for p in model.parameters()):,} parameters that turns a mask of "
            f"{sizes.image_size} x {sizes.image_size} pixels into {model.num_tokens} of {sizes.num_codes} codes and "
            "back: the segmentation tokens of vislex's codec `loc_seg`. Its shape is that of PaliGemma's mask "
            "tokenizer (Ning et al., arXiv 2301.02229); the codes are its own. Figures: held-out masks through box and "
            "codes and back at their own resolution, beside the filled boxes, and how many codes they use."
        ),
    )


def sketch(config: MaskTokenizerSettings) -> Iterator[Sketch]:
    """What ``run`` would train once the codes are in use; see ``Recipe``."""
    model = MaskTokenizer(MaskTokenizerConfig(**config.model)).to(memory_format=torch.channels_last)
    side = model.config.image_size

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        return {"masks": torch.rand(samples, side, side)}

    def loss(model: Any, inputs: dict[str, Any]) -> Tensor:
        found: Tensor = model(**inputs, quantize=True).loss
        return found

    yield Sketch(config, model, _PARTS, batch, loss=loss)


RECIPE = Recipe(MaskTokenizerSettings, run, sketch)
