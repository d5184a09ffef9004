"""What the recipes of captioners share: the data and its cached tokens, validation, and what a finished run leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from pydantic import Field
from torch import nn
from transformers import PreTrainedTokenizerFast

from vislex.captioner import Captioner
from vislex.data.sources import describe_source
from vislex.decoders.base import CaptionDecoder
from vislex.decoders.budget import decoder_parameters
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.metrics import score_captions
from vislex.processing import create_image_processor
from vislex.recipes.source import DataSettings, column
from vislex.training.captions import CaptionBank
from vislex.training.features import cached_features
from vislex.training.latents import cached_latents
from vislex.training.records import command_line, finish_run
from vislex.training.settings import total_draws
from vislex.training.trainer import PartTrainer

__all__ = [
    "CaptionData",
    "Inputs",
    "Validation",
    "caption_inputs",
    "image_inputs",
    "save_captioner",
]

Inputs = Callable[[np.ndarray], dict[str, Any]]


class CaptionData(DataSettings):
    """How captioners read their data, and how they are validated and saved.

    Attributes:
        cache_features: Whether what is frozen is run only once: the encoder, and the text encoder of the decoder
            ``ladic``. The cache is below ``VISLEX_CACHE``.
        save_dtype: Number format of the saved weights; training keeps float32, and so does loading unless it is told
            another: bfloat16 halves the folder.
        validation_options: Options of ``generate`` for the captions written for validation.
    """

    cache_features: bool = True
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    validation_options: dict[str, Any] = Field(default_factory=dict)


def image_inputs(config: CaptionData, captioner: Captioner, dataset: Dataset, *, frozen: bool = True) -> Inputs:
    """What gives a batch's images: cached tokens of a frozen encoder, else pixels."""
    processor = create_image_processor(captioner.encoder.spec)
    if frozen and config.cache_features:
        facts = describe_source(config.data)
        store = cached_features(captioner.encoder, dataset, processor, provenance=facts.provenance)

        def from_cache(rows: np.ndarray) -> dict[str, Any]:
            vision = store.tokens(rows)
            mask = {} if vision.mask is None else {"vision_mask": vision.mask}
            return {"vision_tokens": vision.tokens.float(), **mask}

        return from_cache
    return lambda rows: dict(processor(dataset[rows.tolist()]["image"], return_tensors="pt"))


def caption_inputs(config: CaptionData, decoder: CaptionDecoder, bank: CaptionBank) -> Inputs:
    """What gives a batch's captions int64[B] of the bank: their ids and, for ``ladic``, cached latents.

    Latents are encoded beforehand only where the training reads more captions than there are.
    """
    reads_again = total_draws(config) > len(np.unique(bank.text_ids))
    if not (config.cache_features and reads_again and isinstance(decoder, LadicDecoder)):
        return bank.batch
    store = cached_latents(decoder.codec, bank)
    return lambda chosen: {**bank.batch(chosen), "latents": store.latents(chosen)}


class Validation:
    """Loss on one caption an image, and the scores of the captions that are written, on a few images.

    Args:
        config: Its ``validation_options``.
        dataset: The images and their references.
        inputs: What gives a batch's images.
        tokenizer: Of the references.
        max_length: Longest caption in tokens.
        loss_options: Further keywords of the captioner where its loss is asked for (``objective``).
    """

    def __init__(
        self,
        config: CaptionData,
        dataset: Dataset,
        inputs: Inputs,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        **loss_options: Any,
    ) -> None:
        self.config = config
        self.inputs = inputs
        self.references = [list(own) for own in column(dataset, "captions")]
        self.bank = CaptionBank(self.references, tokenizer, max_length=max_length)
        self.loss_options = loss_options

    def __call__(self, captioner: nn.Module, *, batch_size: int = 64) -> dict[str, float]:
        device = next(captioner.parameters()).device
        losses, texts, lengths = [], [], []
        for start in range(0, len(self.references), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self.references)))
            inputs = _to(self.inputs(rows), device)
            batch = _to(self.bank.batch(self.bank.starts[rows]), device)
            losses.append(float(captioner(**inputs, **batch, **self.loss_options).loss))
            lengths.append(len(rows))
            ids = captioner.generate(**inputs, indices=torch.from_numpy(rows), **self.config.validation_options)
            texts += captioner.processor.decode_captions(ids)
        scores = score_captions(dict(enumerate(texts)), dict(enumerate(self.references)))
        kept = {name: scores[name] for name in ("CIDEr-D", "BLEU-4")}
        return {"loss": float(np.average(losses, weights=lengths)), **kept}


def save_captioner(
    recipe: str,
    captioner: Captioner,
    config: CaptionData,
    trainer: PartTrainer,
    figures: dict[str, float],
    *,
    output: Path,
    summary: str,
    **extra: Any,
) -> None:
    """Leaves captioner, card and ``run.json``; does nothing in a process that is not the first.

    Args:
        recipe: Its name.
        captioner: With the weights to save.
        config: Of the run.
        trainer: Of the run.
        figures: What ``trainer.fit`` gave.
        output: Folder.
        summary: First sentences of the card's notes.
        **extra: Further entries of ``run.json``.
    """
    if not trainer.is_world_process_zero():
        return
    facts = describe_source(config.data)
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items() if math.isfinite(value))
    captioner.card_notes = (
        f"{summary}; seed {config.seed}, {config.steps} steps of {config.batch_size}. Trained on {facts.trained_on}."
        f"\n\n```\n{command_line(recipe, config)}\n```\n\n| figure | value |\n|---|---|\n{rows}\n"
    )
    captioner.eval().to(getattr(torch, config.save_dtype)).save_pretrained(output)
    finish_run(
        recipe,
        config,
        output,
        figures,
        trainer,
        suite=facts.provenance,
        parameters=_parameters(captioner),
        **extra,
    )


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) for key, value in batch.items()}


def _parameters(captioner: Captioner) -> dict[str, int]:
    """Parameters by part, and those of the comparison's budget."""
    return {
        "encoder": sum(p.numel() for p in captioner.encoder.parameters()),
        **decoder_parameters(captioner.decoder),
        "trainable": sum(p.numel() for p in captioner.parameters() if p.requires_grad),
    }
