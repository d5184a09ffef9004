"""Recipe ``ladic_codec``: the latent space of LaDiC for a corpus, from its captions alone.

The lower layers of a BERT are frozen and give the latents; the layers above them and a head learn to read latents back
into words, through Gaussian noise of random strength, as a denoiser's predictions are never exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import PreTrainedTokenizerFast, set_seed

from vislex.data.sources import describe_source
from vislex.decoders.ladic.codec import LatentCodec
from vislex.errors import CheckpointError
from vislex.recipes.components import attached_text_encoder, codec_of, text_model_config, tokenizer_or_stand_in
from vislex.recipes.source import DataSettings, PlannedCaptions, captions_if_here, column, load_splits
from vislex.text import encode_captions, load_tokenizer, prune_tokenizer
from vislex.training.captions import CaptionBank, generator
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import command_line, finish_run, start_run
from vislex.training.settings import total_draws, uses_bf16
from vislex.training.sketch import Sketch, caption_shapes
from vislex.training.trainer import PartTrainer

__all__ = ["NOISE_LEVELS", "RECIPE", "LadicCodecConfig", "round_trip", "run", "sketch"]

NOISE_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # standard deviations of the noise, in those of the latents

_PARTS = {"upper": PartSettings(), "transform": PartSettings(), "embeddings": PartSettings()}

logger = logging.getLogger(__name__)


class LadicCodecConfig(DataSettings):
    """Configuration of ``ladic_codec``; of its data only captions are read.

    Attributes:
        text_model: "minilm", a folder, or a hub id of a BERT-like model (``bert-base-uncased``).
        random_text_model: Draws the text model's weights at random: what the latent space is without training.
        split_layer: Layers of the text encoder; None halves the model, 0 makes the embeddings the latents.
        decoder_layers: Layers of the text decoder; None takes all that are left, 0 only the head.
        normalize: Whether latents are normalised.
        normalize_stop: Whether the latent of "." that stands for no word is, too.
        noise: Largest standard deviation of the noise in training.
        least_accuracy: Share of the words that must survive the round trip without noise, or the run fails.
    """

    budget_table: ClassVar[str] = "ladic_codec"

    text_model: str = "minilm"
    random_text_model: bool = False
    split_layer: int | None = Field(None, ge=0)
    decoder_layers: int | None = Field(1, ge=0)
    normalize: bool = True
    normalize_stop: bool = True
    noise: float = Field(1.0, ge=0)
    least_accuracy: float = Field(0.98, ge=0, le=1)
    prune_vocabulary: bool = True
    max_length: int = Field(40, ge=4)


def run(config: LadicCodecConfig) -> Path:
    """Trains a codec.

    Returns:
        The output folder: a ``LatentCodec`` with its statistics, tokenizer and card, ``training.jsonl``, ``run.json``.

    Raises:
        CheckpointError: If fewer words than ``least_accuracy`` survive the round trip without noise.
    """
    output = start_run("ladic_codec", config)
    set_seed(config.seed)
    train, val = (column(split, "captions") for split in load_splits(config))
    captions = [text for own in train for text in own]
    tokenizer, token_index = load_tokenizer(config.text_model), None
    if config.prune_vocabulary:
        tokenizer, token_index = prune_tokenizer(tokenizer, captions)
    codec = LatentCodec.create(
        tokenizer,
        captions[:10000],
        text_model=config.text_model,
        split_layer=config.split_layer,
        decoder_layers=config.decoder_layers,
        max_length=config.max_length,
        normalize=config.normalize,
        normalize_stop=config.normalize_stop,
        random_seed=config.seed if config.random_text_model else None,
        token_index=token_index,
    )
    bank = CaptionBank(train, tokenizer, max_length=config.max_length)
    held_out = [text for own in val for text in own][:1000]

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        generators = [generator(config.seed, int(position)) for position in positions]
        batch = bank.batch(bank.pick(rows, iter(generators)))
        noise = config.noise * torch.tensor([g.random() for g in generators], dtype=torch.float32)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "noise_scale": noise}

    def validate(model: nn.Module) -> dict[str, float]:
        accuracies = round_trip(model, tokenizer, held_out, max_length=config.max_length)  # type: ignore[arg-type]
        return {f"accuracy_{level:g}": accuracy for level, accuracy in accuracies.items()}

    trainer = PartTrainer(
        codec,
        config,
        parts=_PARTS,
        draws=Draws(len(train), total_draws(config), seed=config.seed, fetch=fetch),
        output_dir=output,
        validate=validate,
        title=f"codec of {config.text_model}",
    )
    figures = trainer.fit()
    accuracies = round_trip(codec.eval(), tokenizer, held_out, max_length=config.max_length)
    if trainer.is_world_process_zero():
        if config.progress:
            Console(stderr=True).print(_table(accuracies))
        _check(accuracies[0.0], config.least_accuracy)
        codec.to(torch.bfloat16).save_pretrained(output)
        (output / "README.md").write_text(_card(config, codec, accuracies), encoding="utf-8")
        figures |= {f"accuracy_{level:g}": accuracy for level, accuracy in accuracies.items()}
        finish_run("ladic_codec", config, output, figures, trainer, suite={"suite": config.data})
    return output


@torch.no_grad()
def round_trip(
    codec: LatentCodec, tokenizer: PreTrainedTokenizerFast, captions: list[str], *, max_length: int
) -> dict[float, float]:
    """Share of words that come back from their latents, for each noise level; the noise is the same in every call."""
    right = dict.fromkeys(NOISE_LEVELS, 0)
    words = 0
    noise_generator = torch.Generator().manual_seed(0)
    for start in range(0, len(captions), 250):
        batch = encode_captions(tokenizer, captions[start : start + 250], max_length=max_length)
        ids = batch["input_ids"].to(codec.device)
        latents = codec.encode(ids, batch["attention_mask"].to(codec.device))
        noise = torch.randn(latents.shape, generator=noise_generator).to(latents.device)
        is_word = ~codec.is_special(ids)
        words += int(is_word.sum())
        for level in NOISE_LEVELS:
            read = codec.decode(latents + level * noise).argmax(-1)
            right[level] += int(((read == ids) & is_word).sum())
    return {level: count / max(words, 1) for level, count in right.items()}


def _check(accuracy: float, least: float) -> None:
    if accuracy < least:
        raise CheckpointError(
            f"only {accuracy:.1%} of the words survive the round trip through clean latents, {least:.0%} are needed: a "
            "denoiser on these latents could not write captions; train longer (steps=), split lower (split_layer=), or "
            "keep more layers (decoder_layers=)"
        )


def _table(accuracies: dict[float, float]) -> Table:
    table = Table(title="round trip of held-out captions")
    table.add_column("noise (standard deviations)", justify="right")
    table.add_column("words that come back", justify="right")
    for level, accuracy in accuracies.items():
        table.add_row(f"{level:g}", f"{accuracy:.1%}")
    return table


def _card(config: LadicCodecConfig, codec: LatentCodec, accuracies: dict[float, float]) -> str:
    rows = "\n".join(f"| {level:g} | {accuracy:.4f} |" for level, accuracy in accuracies.items())
    count = sum(parameter.numel() for parameter in codec.parameters())
    data = describe_source(config.data).trained_on
    return (
        "---\nlibrary_name: vislex\ntags:\n- vislex\n- ladic\n---\n# Latent codec\n\n"
        f"Layers 1 to {codec.config.split_layer} of `{config.text_model}` give the latents and are not here; "
        f"{codec.config.decoder_layers} layers and a head ({count:,} parameters, {codec.config.vocab_size} pieces) "
        f"read them. Trained on the captions of {data}.\n\n```\n{command_line('ladic_codec', config)}\n```\n\n"
        f"| noise | words that come back |\n|---|---|\n{rows}\n"
    )


def sketch(config: LadicCodecConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    references = captions_if_here(config)
    tokenizer = tokenizer_or_stand_in(config.text_model)
    notes = []
    if config.prune_vocabulary and references is not None:
        tokenizer, _ = prune_tokenizer(tokenizer, (text for own in references for text in own))
    elif config.prune_vocabulary:
        notes.append("the vocabulary is not pruned, for want of captions")
    own = text_model_config(config.text_model)
    codec = codec_of(own, tokenizer, split_layer=config.split_layer, decoder_layers=config.decoder_layers)
    lengths = PlannedCaptions.of(references, tokenizer, config.max_length, config.data)
    ids = {"bos": codec.config.bos_token_id, "eos": codec.config.eos_token_id, "word": len(tokenizer) // 2}

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        shapes = caption_shapes(samples, lengths.typical if typical else lengths.longest, **ids)
        del shapes["labels"]
        return {**shapes, "noise_scale": torch.rand(samples)}

    attached = attached_text_encoder(codec, bf16=uses_bf16(config))
    yield Sketch(config, codec, _PARTS, batch, attached=attached, notes=[*notes, *lengths.notes])


RECIPE = Recipe(LadicCodecConfig, run, sketch)
