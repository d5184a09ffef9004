"""What the recipes ``align`` and ``sft`` share: the parts, the mixture, validation, and what a run leaves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from transformers import set_seed

from vislex.adapters.llms import create_llm, load_llm_tokenizer
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_segment import prepare_codec
from vislex.data.sources import describe_source
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.metrics.masks import score_masks
from vislex.modules.tail_drop import TailDrop
from vislex.recipes.vlm_data import Mixture, Source, SourceSettings, load_source
from vislex.segmentation.codec import MaskCodec
from vislex.segmentation.seg_head import SegHeadCodec
from vislex.shipped import find_model
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.records import command_line, finish_run
from vislex.training.settings import TrainingSettings, samples_a_step, total_draws
from vislex.training.trainer import PartTrainer, label_tokens

__all__ = ["VlmSettings", "build_model", "make_trainer", "save_model", "with_mask_head"]

logger = logging.getLogger(__name__)


class VlmSettings(TrainingSettings):
    """How vision-language models are put together and what they read.

    Attributes:
        model: Folder, or shipped name, of a vision-language model to go on from; the keys of parts below are then its
            own.
        encoder: A name of ``vislex list encoders``, ``timm:NAME``, ``hf:DIR``, ...
        pretrained: Whether the encoder starts from its weights; random ones are drawn from ``seed``.
        tiny: Whether to take the encoder's tiny variant (tests).
        connector: A name of ``vislex list connectors``.
        llm: A name of ``vislex list llms``, ``hf:ORG/REPO`` or ``hf:DIR``; its weights are loaded.
        attention: "causal" or "prefix".
        mixture: What is trained on.
        train_split, val_split: Splits of the sources.
        train_size: Rows of each source that names no size of its own.
        val_size: Rows of each source that are validated on.
        codec: How masks are written, for the task "segmentation": a name of ``vislex list codecs``. Tokens that the
            tokenizer lacks are added, if the language model is trained in full. With "seg_head" the text is the one
            token <SEG>, and a mask head, which the model keeps as ``mask_head``, is trained in full beside the parts;
            the encoder must give a grid of tokens.
        codec_options: Options of the codec; those of "seg_head" are its mask head's (``hidden_size``, ``upscale``) and
            the weights of its losses (``bce_weight``, ``dice_weight``).
        cache_features: Whether a frozen encoder is run over all images beforehand.
        max_length: Longest dialogue in tokens, images not counted.
        pack_length: Tokens of a row that dialogues share without seeing each other; 0 pads each instead.
        tail_drop: How many tokens an image gets in a step, for connectors with a budget at run time.
        save_dtype: Number format of the saved weights.
    """

    model: Path | None = None
    encoder: str = "siglip-tiny"
    pretrained: bool = True
    tiny: bool = False
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    connector: str = "mlp"
    connector_options: dict[str, Any] = Field(default_factory=dict)
    llm: str = "hf:runs/lm"
    attention: Literal["causal", "prefix"] = "causal"
    mixture: list[SourceSettings] = Field(
        default_factory=lambda: [SourceSettings(), SourceSettings(task="vqa")], min_length=1
    )
    train_split: str = "train"
    val_split: str = "val"
    train_size: int | None = Field(10000, ge=1)
    val_size: int = Field(200, ge=1)
    codec: str = "loc_seg"
    codec_options: dict[str, Any] = Field(default_factory=dict)
    cache_features: bool = True
    max_length: int = Field(256, ge=8)
    pack_length: int = Field(0, ge=0)
    tail_drop: TailDrop = "none"
    save_dtype: Literal["float32", "bfloat16"] = "float32"


def build_model(config: VlmSettings, **loading: Any) -> VisionLanguageModel:
    """The model that a training starts from.

    Args:
        config: What it is made of.
        **loading: Keywords of ``VisionLanguageModel.from_pretrained``, where ``model`` names one.
    """
    if config.model is not None:
        folder = find_model(config.model) or config.model
        model: VisionLanguageModel = VisionLanguageModel.from_pretrained(folder, **loading)
        return model
    start: dict[str, Any] = {"pretrained": True} if config.pretrained else {"seed": config.seed}
    encoder = create_encoder(config.encoder, tiny=config.tiny, **start, **config.encoder_options)
    llm, tokenizer = create_llm(config.llm, pretrained=True), load_llm_tokenizer(config.llm)
    set_seed(config.seed)  # connectors of equal sizes start from equal weights, whatever the encoder is
    return VisionLanguageModel.from_parts(
        encoder=encoder,
        connector=config.connector,
        llm=llm,
        tokenizer=tokenizer,
        attention=config.attention,
        **config.connector_options,
    )


def make_trainer(
    config: VlmSettings, model: VisionLanguageModel, parts: dict[str, PartSettings], output: Path, title: str
) -> PartTrainer:
    """The trainer of a model, with its data.

    Raises:
        ConfigError: If masks are to be written in tokens that would not be trained.
    """
    set_seed(config.seed)  # a mask head that is added
    codec = _codec(config, model, parts)
    parts = with_mask_head(model, parts, trained=isinstance(codec, SegHeadCodec))
    set_seed(config.seed)
    cached = config.cache_features and parts["encoder"].mode == "frozen"
    shared: dict[str, Any] = {"cached": cached, "max_length": config.max_length, "seed": config.seed}
    train, val = (
        [load_source(own, split, size, codec) for own in _sized(config, split)]
        for split, size in ((config.train_split, config.train_size), (config.val_split, config.val_size))
    )
    mixture = Mixture(model, train, pack_length=config.pack_length, tail_drop=config.tail_drop, **shared)
    held_out = Mixture(model, val, **shared)
    lengths = mixture.bank.lengths(16)
    firsts = mixture.starts[:-1]
    return PartTrainer(
        model,
        config,
        parts=parts,
        draws=Draws(
            len(mixture),
            total_draws(config),
            seed=config.seed,
            fetch=mixture.fetch,
            lengths=None if config.pack_length else lambda rows, positions: lengths[firsts[rows]],
            batch_size=samples_a_step(config),
        ),
        output_dir=output,
        validate=_Validation(model, held_out, val, [source.task for source in config.mixture]),
        title=title,
        items=label_tokens,
    )


def with_mask_head(
    model: VisionLanguageModel, parts: Mapping[str, PartSettings], *, trained: bool
) -> dict[str, PartSettings]:
    """The parts with the model's mask head, if it has one: trained in full where it learns masks, else frozen."""
    if model.mask_head is None:
        return dict(parts)
    return {**parts, "mask_head": PartSettings(mode="full" if trained else "frozen")}


def save_model(
    recipe: str,
    model: VisionLanguageModel,
    config: VlmSettings,
    trainer: PartTrainer,
    figures: dict[str, float],
    output: Path,
    *,
    summary: str,
) -> None:
    """Leaves model, ``run.json`` and the card, which tells the trainings before this one too; first process only."""
    if not trainer.is_world_process_zero():
        return
    before = f"\n### Before this, `{config.model}`\n\n{model.card_notes}\n" if model.card_notes else ""
    model.card_notes = notes(recipe, config, figures, summary) + before
    model.eval().to(getattr(torch, config.save_dtype)).save_pretrained(output)
    record_run(recipe, config, trainer, figures, output)


def notes(recipe: str, config: VlmSettings, figures: dict[str, float], summary: str) -> str:
    """The card's notes: what was trained on what, by which command, and the figures."""
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items() if math.isfinite(value))
    names = dict.fromkeys(source.data for source in config.mixture)
    sources = "; ".join(_source(name, [own.task for own in config.mixture if own.data == name]) for name in names)
    return (
        f"{summary}; seed {config.seed}, {config.steps} steps of {config.batch_size}. Trained on {sources}."
        f"\n\n```\n{command_line(recipe, config)}\n```\n\n| figure | value |\n|---|---|\n{rows}\n"
    )


def _source(name: str, tasks: list[str]) -> str:
    """A source of a mixture with its tasks, and what follows from its licence."""
    facts = describe_source(name).trained_on
    return f"{', '.join(dict.fromkeys(tasks))} of {name}" + (f" ({facts})" if facts != name else "")


def record_run(recipe: str, config: VlmSettings, trainer: PartTrainer, figures: dict[str, float], output: Path) -> None:
    """Writes ``run.json``."""
    held_out = trainer._validate
    provenance = held_out.provenance if isinstance(held_out, _Validation) else None
    finish_run(recipe, config, output, figures, trainer, suite=provenance)


def _sized(config: VlmSettings, split: str) -> list[SourceSettings]:
    """The sources; those of validation have ``val_size`` rows."""
    if split == config.train_split:
        return config.mixture
    return [source.model_copy(update={"size": config.val_size}) for source in config.mixture]


def _codec(config: VlmSettings, model: VisionLanguageModel, parts: dict[str, PartSettings]) -> MaskCodec | None:
    """The codec of a mixture with masks, whose tokens the model then has."""
    if all(source.task != "segmentation" for source in config.mixture):
        return None
    codec, added = prepare_codec(model, config.codec, **config.codec_options)
    if added and parts["llm"].mode != "full":
        known = "" if codec.needs_head else "take one that has them (lm_pretrain location_tokens=true), "
        raise ConfigError(
            f"codec={config.codec} needs {added} tokens that this language model does not have, and a language model "
            f"that is trained as {parts['llm'].mode} does not learn them; train it in full (parts.llm.mode=full of "
            f"sft), {known}or take codec=text_rle"
        )
    return codec


class _Validation:
    """Loss on held-out examples, questions answered in the words of the reference, and mIoU of masks."""

    def __init__(self, model: VisionLanguageModel, mixture: Mixture, sources: list[Source], tasks: list[str]) -> None:
        self.mixture = mixture
        self.provenance = sources[0].provenance
        self.questions = [
            (source.images[own.images[0]]["image"], own.turns[0].content.replace("<image>", ""), own.turns[-1].content)
            for source, task in zip(sources, tasks, strict=True)
            if task == "vqa"
            for (own,) in source.groups
        ]
        self.expressions = [
            (row["image"], row["expression"], row["mask"])
            for source, task in zip(sources, tasks, strict=True)
            if task == "segmentation"
            for row in source.images
        ]

    def __call__(self, model: nn.Module, *, batch_size: int = 32) -> dict[str, float]:
        assert isinstance(model, VisionLanguageModel)
        firsts = self.mixture.starts[:-1]
        losses, weights = [], []
        for begin in range(0, len(firsts), batch_size):
            batch = self.mixture.batch(firsts[begin : begin + batch_size])
            moved = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            losses.append(float(model(**moved).loss))
            weights.append(int((batch["labels"] != -100).sum()))
        figures = {"loss": float(np.average(losses, weights=weights))}
        if self.questions:
            images, prompts, answers = zip(*self.questions, strict=True)
            given = model.ask(list(images), list(prompts), batch_size=batch_size, max_new_tokens=12)
            right = [own.text.lower() == answer.lower() for own, answer in zip(given, answers, strict=True)]
            figures["vqa_exact"] = float(np.mean(right))
        if self.expressions:
            images, expressions, masks = zip(*self.expressions, strict=True)
            found = model.segment(list(images), list(expressions), batch_size=batch_size)
            scores = score_masks([own.mask for own in found], masks)
            figures |= {"mIoU": scores["mIoU"], "invalid": scores["invalid"]}
        return figures
