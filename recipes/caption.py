"""Recipe ``caption``: an encoder and a caption decoder, trained on images with several reference captions each.

A frozen encoder is run once over the data and its tokens are cached; a decoder then trains from the cache. With the
encoder in ``lora`` or ``full`` mode the images go through it at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from pydantic import Field
from torch import nn
from transformers import PreTrainedTokenizerFast, set_seed

from vislex.captioner import Captioner
from vislex.config import Config
from vislex.data.sources import describe_source, load_suite
from vislex.decoders.autoregressive import AutoregressiveDecoder
from vislex.decoders.base import CaptionDecoder
from vislex.decoders.budget import decoder_parameters
from vislex.decoders.factory import create_decoder
from vislex.decoders.infill import WordPieces
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.metrics import score_captions
from vislex.processing import create_image_processor
from vislex.text import load_tokenizer, prune_tokenizer, special_tokens
from vislex.training.captions import CaptionBank, generator
from vislex.training.distill import caption_all
from vislex.training.draws import Draws
from vislex.training.features import cached_features
from vislex.training.fill_in_middle import FillInMiddle
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import command_line, finish_run, start_run
from vislex.training.settings import TrainingSettings, total_draws
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "CaptionConfig", "CaptionParts", "prepare", "run"]

Inputs = Callable[[np.ndarray], dict[str, Any]]


class CaptionParts(Config):
    """How encoder and decoder are trained.

    Attributes:
        others: Parts of these that are trained in another way, by dotted name ("decoder.codec").
    """

    encoder: PartSettings = PartSettings(mode="frozen")
    decoder: PartSettings = PartSettings()
    others: dict[str, PartSettings] = Field(default_factory=dict)


class CaptionConfig(TrainingSettings):
    """Configuration of ``caption``.

    Attributes:
        encoder: A name of ``vislex list encoders``, or ``timm:NAME``, ``hf:ORG/REPO``, ``hf:DIR``, ...
        pretrained: Whether the encoder starts from its weights; random ones are drawn from ``seed``.
        tiny: Whether to take the encoder's tiny variant (tests).
        decoder: A name of ``vislex list decoders``.
        data: A name of ``vislex list suites``, with its place behind a colon ("coco:/data/coco"), or a folder.
        data_options: Further options of the source (for openmoji: ``vocabulary``, ``style``, ``seed``).
        train_size: Images of the training split that are used; None takes all (openmoji: its default size).
        prune_vocabulary: Whether to keep only the word pieces that occur in the training captions.
        cache_features: Whether a frozen encoder is run only once; the cache is below ``VISLEX_CACHE``.
        save_dtype: Number format of the saved weights; training keeps float32, and so does loading unless it is told
            another: bfloat16 halves the folder.
        validation_options: Options of ``generate`` for the captions written for validation.
        distill_from: A trained captioner's folder: its captions of the training images take the place of references.
        distill_share: Share of the training captions that are the teacher's.
        distill_options: Options of ``generate`` for the teacher's captions.
        fill_in_middle: Share of the captions that an autoregressive decoder sees as a template with blanks, followed by
            the missing words, so that it can fill blanks; other decoders see both sides anyway.
    """

    budget_table: ClassVar[str] = "caption"

    encoder: str = "efficientnet-lite0"
    pretrained: bool = True
    tiny: bool = False
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    decoder: str = "cross_attention"
    decoder_options: dict[str, Any] = Field(default_factory=dict)
    parts: CaptionParts = CaptionParts()
    data: str = "openmoji"
    data_options: dict[str, Any] = Field(default_factory=dict)
    train_split: str = "train"
    val_split: str = "val"
    train_size: int | None = Field(10000, ge=1)
    val_size: int | None = Field(200, ge=1)
    tokenizer: str = "minilm"
    prune_vocabulary: bool = True
    max_length: int = Field(40, ge=4)
    cache_features: bool = True
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    validation_options: dict[str, Any] = Field(default_factory=dict)
    distill_from: Path | None = None
    distill_share: float = Field(1.0, gt=0, le=1)
    distill_options: dict[str, Any] = Field(default_factory=dict)
    fill_in_middle: float = Field(0.0, ge=0, le=1)


def run(config: CaptionConfig) -> Path:
    """Trains a captioner.

    Returns:
        The output folder: a ``Captioner`` with its processor and card, ``training.jsonl``, ``run.json``.
    """
    output = start_run("caption", config)
    captioner, trainer = prepare(config, output)
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        encoder = captioner.encoder
        captioner.card_notes = _notes(config, figures)
        captioner.eval().to(getattr(torch, config.save_dtype)).save_pretrained(output)
        finish_run(
            "caption",
            config,
            output,
            figures,
            trainer.plan,
            suite=describe_source(config.data).provenance,
            parameters=_parameters(captioner),
            encoder={"name": config.encoder, "source": encoder.config.source, "spec": encoder.spec.to_dict()},
        )
    return output


def prepare(config: CaptionConfig, output: Path) -> tuple[Captioner, PartTrainer]:
    """Builds what ``run`` trains: the captioner, and its trainer with the data.

    Args:
        config: What is trained.
        output: Folder of the trainer's log and checkpoints.
    """
    encoder = _encoder(config)
    set_seed(config.seed)  # after the encoder: decoders of equal sizes start from equal weights, whatever it is
    train, val = _load(config, config.train_split, config.train_size), _load(config, config.val_split, config.val_size)
    references = _column(train, "captions")
    tokenizer = load_tokenizer(config.tokenizer)
    options = {"max_length": config.max_length, **config.decoder_options}
    if config.prune_vocabulary:
        tokenizer, token_index = prune_tokenizer(tokenizer, (text for own in references for text in own))
        if any(options.get(source) is not None for source in ("language_model", "word_embeddings")):
            options["token_index"] = token_index
    decoder = create_decoder(config.decoder, encoder.spec, tokenizer, **options)
    blanks = _fill_in_middle(config, decoder, tokenizer)
    captioner = Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=tokenizer)
    inputs, val_inputs = (_inputs(config, captioner, dataset) for dataset in (train, val))
    taught = [] if config.distill_from is None else teacher_captions(config, train)
    bank = CaptionBank([*references, *([text] for text in taught)], tokenizer, max_length=decoder.config.max_length)

    def pick(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        generators = [generator(config.seed, int(position)) for position in positions]
        if taught:  # the teacher's captions stand behind the references
            from_teacher = np.array([g.random() < config.distill_share for g in generators])
            rows = np.where(from_teacher, rows + len(references), rows)
        return bank.pick(rows, iter(generators))

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        batch = bank.batch(pick(rows, positions))
        if blanks is not None:
            batch = blanks(batch, [generator(config.seed, int(position), "blanks") for position in positions])
        return {**inputs(rows), **batch}

    trainer = PartTrainer(
        captioner,
        config,
        parts={"encoder": config.parts.encoder, "decoder": config.parts.decoder, **config.parts.others},
        draws=Draws(
            len(train),
            total_draws(config),
            seed=config.seed,
            fetch=fetch,
            lengths=lambda rows, positions: bank.lengths[pick(rows, positions)],
            batch_size=config.batch_size,
        ),
        output_dir=output,
        validate=Validation(config, val, val_inputs, tokenizer, decoder.config.max_length),
        title=f"{config.encoder} + {config.decoder}",
    )
    return captioner, trainer


def _encoder(config: CaptionConfig) -> VisionEncoder:
    start: dict[str, Any] = {"pretrained": True} if config.pretrained else {"seed": config.seed}
    return create_encoder(config.encoder, tiny=config.tiny, **start, **config.encoder_options)


def _fill_in_middle(
    config: CaptionConfig, decoder: CaptionDecoder, tokenizer: PreTrainedTokenizerFast
) -> FillInMiddle | None:
    """What makes templates of captions; the decoder's config then tells how its prompts look.

    Raises:
        ConfigError: If the decoder is not autoregressive, or the tokenizer has no token for a blank.
    """
    if not config.fill_in_middle:
        return None
    if not isinstance(decoder, AutoregressiveDecoder):
        raise ConfigError(
            f"fill_in_middle={config.fill_in_middle} is for autoregressive decoders; '{config.decoder}' is none and "
            "fills blanks without it"
        )
    if tokenizer.mask_token_id is None:
        raise ConfigError(f"fill_in_middle needs a tokenizer with a mask token; '{config.tokenizer}' has none")
    special = special_tokens(tokenizer)
    decoder.config.blank_token_id = tokenizer.mask_token_id
    return FillInMiddle(
        config.fill_in_middle,
        WordPieces.of(tokenizer),
        blank=tokenizer.mask_token_id,
        end=special.eos,
        pad=special.pad,
        max_length=decoder.longest_caption,
    )


class Validation:
    """Loss on one caption an image, and the scores of the captions that are written, on a few images."""

    def __init__(
        self,
        config: CaptionConfig,
        dataset: Dataset,
        inputs: Inputs,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
    ) -> None:
        self.config = config
        self.inputs = inputs
        self.references = [list(own) for own in _column(dataset, "captions")]
        self.bank = CaptionBank(self.references, tokenizer, max_length=max_length)

    def __call__(self, captioner: nn.Module, *, batch_size: int = 64) -> dict[str, float]:
        device = next(captioner.parameters()).device
        losses, texts, lengths = [], [], []
        for start in range(0, len(self.references), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self.references)))
            inputs = _to(self.inputs(rows), device)
            batch = _to(self.bank.batch(self.bank.starts[rows]), device)
            losses.append(float(captioner(**inputs, **batch).loss))
            lengths.append(len(rows))
            ids = captioner.generate(**inputs, indices=torch.from_numpy(rows), **self.config.validation_options)
            texts += captioner.processor.decode_captions(ids)
        scores = score_captions(dict(enumerate(texts)), dict(enumerate(self.references)))
        kept = {name: scores[name] for name in ("CIDEr-D", "BLEU-4")}
        return {"loss": float(np.average(losses, weights=lengths)), **kept}


def _inputs(config: CaptionConfig, captioner: Captioner, dataset: Dataset) -> Inputs:
    """What gives a batch's images: cached tokens of a frozen encoder, else pixels."""
    processor = create_image_processor(captioner.encoder.spec)
    if config.parts.encoder.mode == "frozen" and config.cache_features:
        facts = describe_source(config.data)
        store = cached_features(captioner.encoder, dataset, processor, provenance=facts.provenance)

        def from_cache(rows: np.ndarray) -> dict[str, Any]:
            vision = store.tokens(rows)
            mask = {} if vision.mask is None else {"vision_mask": vision.mask}
            return {"vision_tokens": vision.tokens.float(), **mask}

        return from_cache
    return lambda rows: dict(processor(dataset[rows.tolist()]["image"], return_tensors="pt"))


def teacher_captions(config: CaptionConfig, dataset: Dataset) -> list[str]:
    """One caption of the teacher for each image (sequence-level distillation, arXiv 1606.07947), cached."""
    assert config.distill_from is not None
    return caption_all(
        Captioner.from_pretrained(config.distill_from),
        dataset,
        provenance=describe_source(config.data).provenance,
        **config.distill_options,
    )


def _load(config: CaptionConfig, split: str, size: int | None) -> Dataset:
    return load_suite(config.data, split=split, size=size, **config.data_options)


def _column(dataset: Dataset, name: str) -> list[Any]:
    """A column without opening any image."""
    return list(dataset.with_format(None)[name])


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) for key, value in batch.items()}


def _parameters(captioner: Captioner) -> dict[str, int]:
    """Parameters by part, and those of the comparison's budget."""
    return {
        "encoder": sum(p.numel() for p in captioner.encoder.parameters()),
        **decoder_parameters(captioner.decoder),
        "trainable": sum(p.numel() for p in captioner.parameters() if p.requires_grad),
    }


def _notes(config: CaptionConfig, figures: dict[str, float]) -> str:
    trained_on = describe_source(config.data).trained_on
    start = "its pretrained weights" if config.pretrained else "random weights"
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items() if math.isfinite(value))
    return (
        f"Encoder `{config.encoder}` from {start} ({config.parts.encoder.mode}), decoder `{config.decoder}`; seed "
        f"{config.seed}, {config.steps} steps of {config.batch_size}. Trained on {trained_on}.\n\n"
        f"```\n{command_line('caption', config)}\n```\n\n| figure | value |\n|---|---|\n{rows}\n"
    )


RECIPE = Recipe(CaptionConfig, run)
