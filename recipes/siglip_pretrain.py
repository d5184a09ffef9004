"""Recipe ``siglip_pretrain``: a small text-aligned encoder, ``SiglipModel`` trained with the sigmoid loss on a suite.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023), equation 1, with t' = log 10 and b = -10 at the
start. Each sample is a scene with one of its lossy captions at random. Captions are padded to their full length and
pads are attended, as in the released models: the text tower pools the last position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, set_seed
from transformers.image_utils import PILImageResampling

import vislex.data
from vislex.config import Config
from vislex.data import openmoji
from vislex.errors import ConfigError
from vislex.hub import check_folder
from vislex.metrics.retrieval import retrieval_recall
from vislex.recipes.source import StreamSettings, load_stream
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.captions import CaptionBank, generator
from vislex.training.draws import Draws
from vislex.training.images import cached_images, normalize_images, shift_images, squash
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import finish_run, model_card, start_run
from vislex.training.settings import total_draws
from vislex.training.sketch import Sketch
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "SiglipPretrainConfig", "TowerSettings", "build_model", "run", "sigmoid_loss", "sketch"]


class TowerSettings(Config):
    """Size of one tower."""

    hidden_size: int = Field(192, ge=1)
    num_hidden_layers: int = Field(6, ge=1)
    num_attention_heads: int = Field(3, ge=1)
    intermediate_size: int = Field(576, ge=1)
    hidden_act: str = "gelu"  # exact GELU takes half the time of its tanh approximation on a CPU


class SiglipPretrainConfig(StreamSettings):
    """Configuration of ``siglip_pretrain``.

    Attributes:
        data: "openmoji", or with stream=true "shards:FOLDER", whose captions keep all word pieces.
        render_sizes: Sides in pixels at which the scenes are drawn in turn; all are squashed to ``image_size``, so
            that the encoder knows how drawings look after a resize.
        max_shift: Largest random shift in pixels, in each direction.
        text_length: Word pieces of a padded caption; 98 % of the suite's captions fit into 32.
        start_from: Folder of a ``SiglipModel`` with tokenizer, as this recipe saves one, whose weights the training
            goes on from. Sizes, vocabulary and ``text_length`` are then its own.
        tune: "all", or "head": of the model that is started from only the vision tower's pooling head, with scale and
            bias of the logits; how well the features of a tower that was trained otherwise can still be read.
    """

    budget_table: ClassVar[str] = "siglip_pretrain"

    vocabulary: Literal["core", "default", "large"] = "default"
    image_size: int = Field(48, ge=8)
    patch_size: int = Field(6, ge=1)
    render_sizes: list[int] = Field([48, 64, 96], min_length=1)
    max_shift: int = Field(3, ge=0)
    text_length: int = Field(32, ge=4)
    start_from: Path | None = None
    tune: Literal["all", "head"] = "all"
    vision: TowerSettings = TowerSettings()
    text: TowerSettings = TowerSettings(num_hidden_layers=3)
    train_size: int = Field(30000, ge=1)
    val_size: int = Field(1000, ge=1)
    data_seed: int = Field(0, ge=0)
    render_workers: int = Field(2, ge=0)
    batch_size: int = Field(128, ge=2)
    weight_decay: float = Field(0.05, ge=0)
    beta2: float = Field(0.95, gt=0, lt=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)


def build_model(config: SiglipPretrainConfig, tokenizer: PreTrainedTokenizerFast) -> SiglipModel:
    """A ``SiglipModel`` with random weights and the paper's starting temperature and bias.

    Raises:
        ConfigError: If the patches do not cover the image or the heads do not divide the width.
    """
    if config.image_size % config.patch_size:
        raise ConfigError(f"patch_size {config.patch_size} does not divide image_size {config.image_size}")
    for name, tower in (("vision", config.vision), ("text", config.text)):
        if tower.hidden_size % tower.num_attention_heads:
            heads, width = tower.num_attention_heads, tower.hidden_size
            raise ConfigError(f"{name}.num_attention_heads {heads} does not divide {name}.hidden_size {width}")
    text = {
        **config.text.model_dump(),
        "vocab_size": len(tokenizer),
        "max_position_embeddings": config.text_length,
        "projection_size": config.vision.hidden_size,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {**config.vision.model_dump(), "image_size": config.image_size, "patch_size": config.patch_size}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-10.0)
    return model


def sigmoid_loss(logits: Tensor, text_ids: Tensor) -> Tensor:
    """The sigmoid loss, without the pairs of an image and the same caption written for another image.

    Equal to ``SiglipModel(..., return_loss=True)`` when no caption repeats.

    Args:
        logits: float[B, B], rows are texts.
        text_ids: int64[B], equal for equal captions.
    """
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    signs = own.float() * 2 - 1
    repeated = (text_ids[:, None] == text_ids[None, :]) & ~own
    terms = F.logsigmoid(signs * logits.float()).masked_fill(repeated, 0.0)
    return -terms.sum(dim=-1).mean()


def run(config: SiglipPretrainConfig) -> Path:
    """Trains the model.

    Returns:
        The output folder: a ``SiglipModel`` in bf16 with tokenizer, image processor and card, ``training.jsonl``,
        ``run.json``.
    """
    output = start_run("siglip_pretrain", config)
    if not config.stream and config.data != "openmoji":
        raise ConfigError(f"siglip_pretrain trains on openmoji, or streams: give stream=true with data={config.data}")
    stream = load_stream(config)
    facts = openmoji.provenance() if stream is None else stream.provenance
    cached: dict[str, Any] = {"provenance": facts, "workers": config.render_workers}
    val = _suite(config, config.val_split, config.val_size, config.image_size)
    val_images = cached_images(val, config.image_size, **cached)
    val_captions = _column(val, "captions")
    references: list[list[str]] = []
    images = np.empty((0, config.image_size, config.image_size, 3), dtype=np.uint8)
    if stream is None:
        train = [_suite(config, config.train_split, config.train_size, size) for size in config.render_sizes]
        references = _column(train[0], "captions")
        images = cached_images(train, config.image_size, **cached)

    set_seed(config.seed)  # here: rendering draws random numbers too, unless the images are cached
    model, tokenizer = _model(config, references)
    length = tokenizer.model_max_length
    whole = None if stream is not None else CaptionBank(references, tokenizer, max_length=length)
    _choose_attention(model, config)

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        generators = [generator(config.seed, int(position)) for position in positions]
        pixels, bank = images, whole
        if stream is not None:
            opened, captions = stream.read(rows)
            pixels = np.stack([squash(image, config.image_size) for image in opened])
            bank = CaptionBank(captions, tokenizer, max_length=length)
            rows = np.arange(len(rows))
        assert bank is not None
        chosen = bank.pick(rows, iter(generators))
        reach = config.max_shift
        offsets = np.array([g.integers(-reach, reach + 1, size=2) for g in generators])
        return {
            "pixel_values": normalize_images(shift_images(pixels[rows], offsets)),
            "input_ids": torch.from_numpy(bank.input_ids[chosen]),
            "text_ids": torch.from_numpy(bank.text_ids[chosen]),
        }

    trainer = PartTrainer(
        model,
        config,
        parts=_parts(config),
        draws=Draws(
            len(images) if stream is None else len(stream),
            total_draws(config),
            seed=config.seed,
            fetch=fetch,
            order=None if stream is None else stream.order(config.seed),
        ),
        output_dir=output,
        loss=_loss,
        validate=lambda model: zero_shot_retrieval(model, tokenizer, val_images, val_captions),
        title="siglip_pretrain",
    )
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        _save(model, tokenizer, config, output, figures)
        finish_run("siglip_pretrain", config, output, figures, trainer, suite=facts)
    return output


def _choose_attention(model: SiglipModel, config: SiglipPretrainConfig) -> None:
    """The fastest backward for 64 tokens; not saved."""
    if config.device in ("auto", "cpu") and not torch.cuda.is_available():
        model.set_attn_implementation("eager")


def _loss(model: Any, batch: dict[str, Any]) -> Tensor:
    text_ids = batch.pop("text_ids")
    return sigmoid_loss(model(**batch).logits_per_text, text_ids)


@torch.no_grad()
def zero_shot_retrieval(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    images: np.ndarray,
    captions: list[list[str]],
    *,
    batch_size: int = 256,
) -> dict[str, float]:
    """R@1 and R@5 in both directions over images uint8[N, H, W, 3] and all their captions."""
    device = next(model.parameters()).device
    texts = list(dict.fromkeys(text for own in captions for text in own))
    image_embeds, text_embeds = [], []
    for start in range(0, len(images), batch_size):
        pixels = normalize_images(images[start : start + batch_size]).to(device)
        image_embeds.append(model.get_image_features(pixel_values=pixels).pooler_output)
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        text_embeds.append(model.get_text_features(input_ids=batch["input_ids"].to(device)).pooler_output)
    embeds = [F.normalize(torch.cat(part).float(), dim=-1).cpu().numpy() for part in (image_embeds, text_embeds)]
    return retrieval_recall(embeds[0], embeds[1], captions)


def _model(config: SiglipPretrainConfig, references: list[list[str]]) -> tuple[SiglipModel, PreTrainedTokenizerFast]:
    """A new model over the word pieces of the captions (all, if there are none), or the one to start from with its own
    tokenizer.
    """
    if config.start_from is not None:
        check_folder(config.start_from)
        model = SiglipModel.from_pretrained(config.start_from, dtype=torch.float32)
        side = model.config.vision_config.image_size
        if side != config.image_size:
            raise ConfigError(f"image_size {config.image_size} was given, but '{config.start_from}' has {side}")
        return model, load_tokenizer(config.start_from)
    tokenizer = load_tokenizer("minilm")
    if references:
        tokenizer, _ = prune_tokenizer(tokenizer, (text for own in references for text in own))
    tokenizer.model_max_length = config.text_length
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]  # pads are attended
    return build_model(config, tokenizer), tokenizer


def _parts(config: SiglipPretrainConfig) -> dict[str, PartSettings]:
    if config.tune == "all":
        return {"vision_model": PartSettings(), "text_model": PartSettings()}
    if config.start_from is None:
        raise ConfigError("tune 'head' trains the head of a model that is there: give its folder as start_from")
    frozen = PartSettings(mode="frozen")
    return {"vision_model": frozen, "vision_model.head": PartSettings(), "text_model": frozen}


def _suite(config: SiglipPretrainConfig, split: str, size: int, image_size: int) -> Dataset:
    if config.stream:
        return vislex.data.load_suite(config.data, "caption", split=split, size=size)
    return vislex.data.load_suite(
        "openmoji",
        "caption",
        split=split,
        size=size,
        seed=config.data_seed,
        image_size=image_size,
        vocabulary=config.vocabulary,
        style="lossy",
    )


def _column(dataset: Dataset, name: str) -> list[Any]:
    """A column without rendering any image."""
    return list(dataset.with_format(None)[name])


def _trained_on(config: SiglipPretrainConfig) -> str:
    return f"the pairs of {config.data}" if config.stream else f"{config.train_size:,} scenes with lossy captions"


def _save(
    model: SiglipModel,
    tokenizer: PreTrainedTokenizerFast,
    config: SiglipPretrainConfig,
    output: Path,
    figures: dict[str, float],
) -> None:
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    side = config.image_size // model.config.vision_config.patch_size
    size = {"height": config.image_size, "width": config.image_size}
    SiglipImageProcessor(
        size=size, resample=PILImageResampling.BICUBIC, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(output)
    card = model_card(
        "siglip_pretrain",
        config,
        figures,
        tags=["siglip", "zero-shot-image-classification"],
        **({"trained_on": _trained_on(config)} if config.stream else {}),
        summary=(
            f"A SigLIP of {sum(p.numel() for p in model.parameters()):,} parameters: a ViT of {side} x {side} patches "
            f"and a text tower over {len(tokenizer)} word pieces, trained on {_trained_on(config)}. "
            f'Pad captions to {tokenizer.model_max_length} tokens (`padding="max_length"`): the text tower '
            "pools the last position. Figures: zero-shot retrieval over the validation images with all their captions."
        ),
    )
    (output / "README.md").write_text(card, encoding="utf-8")


def sketch(config: SiglipPretrainConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    if config.start_from is not None:
        check_folder(config.start_from)
        model = SiglipModel(SiglipConfig.from_pretrained(config.start_from)).float()
        tokenizer = load_tokenizer(config.start_from)
    else:
        references: list[list[str]] = []
        if not config.stream:
            references = _column(_suite(config, "train", config.train_size, config.image_size), "captions")
        model, tokenizer = _model(config, references)
    _choose_attention(model, config)

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        return {
            "pixel_values": torch.rand(samples, 3, config.image_size, config.image_size),
            "input_ids": torch.full((samples, tokenizer.model_max_length), len(tokenizer) // 2),
            "text_ids": torch.arange(samples),
        }

    yield Sketch(config, model, _parts(config), batch, loss=_loss)


RECIPE = Recipe(SiglipPretrainConfig, run, sketch)
