"""Recipe ``caption``: an encoder and a caption decoder, trained on images with several reference captions each.

A frozen encoder is run once over the data and its tokens are cached; a decoder then trains from the cache. With the
encoder in ``lora`` or ``full`` mode the images go through it at every step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerFast, set_seed

from vislex.captioner import Captioner
from vislex.config import Config
from vislex.data.sources import describe_source
from vislex.decoders.autoregressive import AutoregressiveDecoder
from vislex.decoders.base import CaptionDecoder
from vislex.decoders.factory import create_decoder
from vislex.decoders.infill import WordPieces
from vislex.decoders.ladic.config import LadicConfig
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.masked import MaskedDecoder
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.processing import create_image_processor
from vislex.recipes.caption_data import (
    CaptionData,
    Validation,
    caption_inputs,
    image_inputs,
    save_captioner,
)
from vislex.recipes.components import attached_text_encoder, outline_codec, tokenizer_or_stand_in
from vislex.recipes.source import (
    PlannedCaptions,
    captions_if_here,
    column,
    load_splits,
    load_stream,
    load_validation,
)
from vislex.text import load_tokenizer, prune_tokenizer, special_tokens
from vislex.training.captions import CaptionBank, generator
from vislex.training.distill import caption_all
from vislex.training.draws import Draws
from vislex.training.fill_in_middle import FillInMiddle
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import start_run
from vislex.training.settings import samples_a_step, total_draws, uses_bf16
from vislex.training.shards import ShardedPairs
from vislex.training.sketch import Sketch, caption_shapes, vision_shapes
from vislex.training.trainer import PartTrainer, label_tokens

__all__ = ["RECIPE", "CaptionConfig", "CaptionParts", "prepare", "run", "sketch"]


class CaptionParts(Config):
    """How encoder and decoder are trained.

    Attributes:
        others: Parts of these that are trained in another way, by dotted name ("decoder.codec").
    """

    encoder: PartSettings = PartSettings(mode="frozen")
    decoder: PartSettings = PartSettings()
    others: dict[str, PartSettings] = Field(default_factory=dict)


class CaptionConfig(CaptionData):
    """Configuration of ``caption``, above what recipes of captioners share.

    Attributes:
        encoder: A name of ``vislex list encoders``, or ``timm:NAME``, ``hf:ORG/REPO``, ``hf:DIR``, ...
        pretrained: Whether the encoder starts from its weights; random ones are drawn from ``seed``.
        tiny: Whether to take the encoder's tiny variant (tests).
        decoder: A name of ``vislex list decoders``.
        prune_vocabulary: Whether to keep only the word pieces that occur in the training captions.
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
    tokenizer: str = "minilm"
    prune_vocabulary: bool = True
    max_length: int = Field(40, ge=4)
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
    start = "its pretrained weights" if config.pretrained else "random weights"
    encoder = captioner.encoder
    save_captioner(
        "caption",
        captioner,
        config,
        trainer,
        figures,
        output=output,
        summary=f"Encoder `{config.encoder}` from {start} ({config.parts.encoder.mode}), decoder `{config.decoder}`",
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
    if (stream := load_stream(config)) is not None:
        return _prepare_streamed(config, encoder, stream, output)
    train, val = load_splits(config)
    references = column(train, "captions")
    tokenizer = load_tokenizer(config.tokenizer)
    options = {"max_length": config.max_length, **config.decoder_options}
    if config.prune_vocabulary:
        tokenizer, token_index = prune_tokenizer(tokenizer, (text for own in references for text in own))
        if any(options.get(source) is not None for source in ("language_model", "word_embeddings")):
            options["token_index"] = token_index
    decoder = create_decoder(config.decoder, encoder.spec, tokenizer, **options)
    blanks = _fill_in_middle(config, decoder, tokenizer)
    captioner = Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=tokenizer)
    frozen = config.parts.encoder.mode == "frozen"
    inputs, val_inputs = (image_inputs(config, captioner, dataset, frozen=frozen) for dataset in (train, val))
    taught = [] if config.distill_from is None else teacher_captions(config, train)
    bank = CaptionBank([*references, *([text] for text in taught)], tokenizer, max_length=decoder.config.max_length)
    captions = caption_inputs(config, decoder, bank)

    def pick(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        generators = [generator(config.seed, int(position)) for position in positions]
        if taught:  # the teacher's captions stand behind the references
            from_teacher = np.array([g.random() < config.distill_share for g in generators])
            rows = np.where(from_teacher, rows + len(references), rows)
        return bank.pick(rows, iter(generators))

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        batch = captions(pick(rows, positions))
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
            batch_size=samples_a_step(config),
        ),
        output_dir=output,
        validate=Validation(config, val, val_inputs, tokenizer, decoder.config.max_length),
        title=f"{config.encoder} + {config.decoder}",
        items=_items(decoder),
    )
    return captioner, trainer


def _prepare_streamed(
    config: CaptionConfig, encoder: VisionEncoder, stream: ShardedPairs, output: Path
) -> tuple[Captioner, PartTrainer]:
    """The same over a stream: images and captions are read, decoded and tokenized as they come.

    Raises:
        ConfigError: If an option needs all captions beforehand.
    """
    for name in ("prune_vocabulary", "distill_from"):
        if getattr(config, name):
            raise ConfigError(f"{name} needs all captions beforehand, which a stream does not give; switch it off")
    tokenizer = load_tokenizer(config.tokenizer)
    options = {"max_length": config.max_length, **config.decoder_options}
    decoder = create_decoder(config.decoder, encoder.spec, tokenizer, **options)
    blanks = _fill_in_middle(config, decoder, tokenizer)
    captioner = Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=tokenizer)
    processor = create_image_processor(encoder.spec)
    val = load_validation(config)
    frozen = config.parts.encoder.mode == "frozen"

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        images, captions = stream.read(rows)
        bank = CaptionBank(captions, tokenizer, max_length=decoder.config.max_length)
        generators = (generator(config.seed, int(position)) for position in positions)
        batch = bank.batch(bank.pick(np.arange(len(rows)), generators))
        if blanks is not None:
            batch = blanks(batch, [generator(config.seed, int(position), "blanks") for position in positions])
        return {**processor(images, return_tensors="pt"), **batch}

    trainer = PartTrainer(
        captioner,
        config,
        parts={"encoder": config.parts.encoder, "decoder": config.parts.decoder, **config.parts.others},
        draws=Draws(len(stream), total_draws(config), seed=config.seed, fetch=fetch, order=stream.order(config.seed)),
        output_dir=output,
        validate=Validation(
            config, val, image_inputs(config, captioner, val, frozen=frozen), tokenizer, decoder.config.max_length
        ),
        title=f"{config.encoder} + {config.decoder}",
        items=_items(decoder),
    )
    return captioner, trainer


def _encoder(config: CaptionConfig) -> VisionEncoder:
    start: dict[str, Any] = {"pretrained": True} if config.pretrained else {"seed": config.seed}
    return create_encoder(config.encoder, tiny=config.tiny, **start, **config.encoder_options)


def _items(decoder: CaptionDecoder) -> Callable[[dict[str, Any]], Tensor] | None:
    """What the decoder's loss is the mean of, where that are tokens."""
    return label_tokens if isinstance(decoder, AutoregressiveDecoder | MaskedDecoder) else None


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


def teacher_captions(config: CaptionConfig, dataset: Dataset) -> list[str]:
    """One caption of the teacher for each image (sequence-level distillation, arXiv 1606.07947), cached."""
    assert config.distill_from is not None
    return caption_all(
        Captioner.from_pretrained(config.distill_from),
        dataset,
        provenance=describe_source(config.data).provenance,
        **config.distill_options,
    )


def sketch(config: CaptionConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    encoder = create_encoder(config.encoder, tiny=config.tiny, **config.encoder_options)
    references = captions_if_here(config)
    tokenizer, notes = tokenizer_or_stand_in(config.tokenizer), []
    if config.prune_vocabulary and references is not None:
        tokenizer, _ = prune_tokenizer(tokenizer, (text for own in references for text in own))
    elif config.prune_vocabulary:
        notes.append("the vocabulary is not pruned, for want of captions")
    options = {"max_length": config.max_length, **config.decoder_options}
    options.pop("word_embeddings", None)  # values, no shapes
    if config.decoder == "ladic":
        options["codec"], told = outline_codec(str(options.get("codec", "ladic-codec")), config.tokenizer, tokenizer)
        notes += told
        if told:  # latents that mean nothing do not tell at which noise words hide
            options.setdefault("log_snr", LadicConfig().log_snr)
    codec = options.get("codec")
    with contextlib.nullcontext() if codec is None else codec.device:  # a codec with values decides on noise
        decoder = create_decoder(config.decoder, encoder.spec, tokenizer, **options)
    captioner = Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=tokenizer)
    lengths = PlannedCaptions.of(references, tokenizer, decoder.config.max_length, config.data)
    cached = config.parts.encoder.mode == "frozen" and config.cache_features
    latents = (
        isinstance(decoder, LadicDecoder) and config.cache_features and references is not None and not config.stream
    )
    latents = latents and total_draws(config) > len({text for own in references or [] for text in own})
    special = special_tokens(tokenizer)
    ids = {"bos": special.bos, "eos": special.eos, "word": len(tokenizer) // 2}

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        shapes = caption_shapes(samples, lengths.typical if typical else lengths.longest, **ids)
        shapes |= vision_shapes(encoder, samples, cached=cached)
        if latents:
            assert isinstance(decoder, LadicDecoder)
            shapes["latents"] = torch.rand(*shapes["input_ids"].shape, decoder.codec.latent_dim)
        return shapes

    reads = isinstance(decoder, LadicDecoder) and not latents
    yield Sketch(
        config,
        captioner,
        {"encoder": config.parts.encoder, "decoder": config.parts.decoder, **config.parts.others},
        batch,
        attached=attached_text_encoder(decoder, bf16=uses_bf16(config)) if reads else {},
        notes=[*notes, *lengths.notes],
    )


RECIPE = Recipe(CaptionConfig, run, sketch)
