"""The reader: a small vision transformer that reads the suite's factors from an image.

It is an instrument, trained on true factors and used on images that a model drew: of each of the nine places it says
whether an object lies there, and what it is. One register token a place and one for the whole image are read out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, SiglipImageProcessor
from transformers.image_utils import PILImageResampling

from vislex.encoders.base import mark_initialized
from vislex.errors import CheckpointError, ConfigError
from vislex.hub import check_folder, check_weights, reading
from vislex.metrics.reader_targets import ARTISTS, BACKGROUNDS, MEASURES, POSITIONS, SIZES, ReaderOutput, readings
from vislex.shipped import model_folder

__all__ = ["Reader", "ReaderConfig", "load_reader"]


class ReaderConfig(PreTrainedConfig):
    """Sizes of a reader, and the names that it knows.

    Attributes:
        concepts: Names that an object can have.
        suite: Version of the suite whose factors it reads.
        image_size: Side in pixels.
        stem_channels: Widths of the convolutions before the transformer, in threes: each at half the side of the one
            before, two convolutions a side but the last.
        hidden_size: Width of the transformer.
        num_hidden_layers: Its layers.
        num_attention_heads: Its attention heads.
        mlp_ratio: Width of its MLPs over its own.
    """

    model_type = "vislex_reader"

    concepts: list[str] | None = None
    suite: str | None = None
    image_size: int = 48
    stem_channels: list[int] | None = None
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    mlp_ratio: float = 3.0


class Reader(PreTrainedModel):
    """Reads the factors of images.

    Raises:
        ConfigError: If the config names no concepts, or its sizes do not fit.
    """

    config_class = ReaderConfig
    config: ReaderConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        channels = config.stem_channels or [32, 64, 128]
        if not config.concepts:
            raise ConfigError("a reader needs the names that it is to read: concepts=[...]")
        if config.image_size % 2 ** len(channels):
            raise ConfigError(f"image_size {config.image_size} cannot be halved {len(channels)} times (stem_channels)")
        if config.hidden_size % config.num_attention_heads:
            heads, width = config.num_attention_heads, config.hidden_size
            raise ConfigError(f"num_attention_heads {heads} does not divide hidden_size {width}")
        width = config.hidden_size
        self.backbone = VisionTransformer(
            img_size=config.image_size,
            patch_size=1,
            num_classes=0,
            global_pool="",
            class_token=False,
            reg_tokens=len(POSITIONS) + 1,
            embed_dim=width,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.mlp_ratio,
            embed_layer=functools.partial(HybridEmbed, backbone=_stem(channels)),
        )
        self.object_head = nn.Linear(width, 1 + len(config.concepts) + len(SIZES) + len(ARTISTS) + len(MEASURES))
        self.image_head = nn.Linear(width, len(BACKGROUNDS) + 3)
        self.post_init()

    def init_weights(self) -> None:
        """Keeps the initialisation that timm gave the transformer."""
        if not any(parameter.is_meta for parameter in self.parameters()):
            mark_initialized(self)

    def get_input_embeddings(self) -> nn.Module | None:
        """None: pixels have no embedding table."""
        return None

    @property
    def image_processor(self) -> SiglipImageProcessor:
        """Squashes any image to ``image_size`` (bicubic) and scales it to [-1, 1]."""
        return SiglipImageProcessor(
            size={"height": self.config.image_size, "width": self.config.image_size},
            resample=PILImageResampling.BICUBIC,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            do_convert_rgb=True,
        )

    def forward(self, pixel_values: Tensor) -> ReaderOutput:
        """Logits and measures of images float[B, 3, image_size, image_size] in [-1, 1]."""
        tokens = self.backbone.forward_features(pixel_values)[:, : len(POSITIONS) + 1]  # [B, P + 1, D]
        assert self.config.concepts is not None
        widths = [1 + len(self.config.concepts), len(SIZES), len(ARTISTS), len(MEASURES)]
        concept, size, artist, measures = self.object_head(tokens[:, 1:]).split(widths, dim=-1)
        background, shade = self.image_head(tokens[:, 0]).split([len(BACKGROUNDS), 3], dim=-1)
        return ReaderOutput(concept, size, artist, measures, background, shade)

    @torch.no_grad()
    def read(self, images: Sequence[Any] | np.ndarray, *, batch_size: int = 64) -> list[dict[str, Any]]:
        """Reads the factors of images.

        At least one object is read from every image, the likeliest, and at most four.

        Args:
            images: PIL images, or uint8[N, H, W, 3].
            batch_size: Images a forward.

        Returns:
            One record an image as ``Scene.factors`` gives it, with a ``confidence`` in [0, 1] of each object.
        """
        processor, read = self.image_processor, []
        was_training = self.training
        self.eval()
        for start in range(0, len(images), batch_size):
            inputs = processor(images=list(images[start : start + batch_size]), return_tensors="pt")
            output = self(inputs["pixel_values"].to(self.device, self.dtype))
            assert self.config.concepts is not None
            read += readings(output, self.config.concepts, self.config.suite)
        self.train(was_training)
        return read


def load_reader(source: str | Path = "reader") -> Reader:
    """Opens a reader in fp32 and eval mode: a folder, or the name of a shipped one.

    Raises:
        CheckpointError: If there is none, or it is incomplete.
    """
    folder = model_folder(source)
    check_folder(folder)
    with reading(f"no reader can be read from '{folder}'"):
        config = ReaderConfig.from_pretrained(folder)
    if not config.concepts:
        raise CheckpointError(f"'{folder}' holds no reader; train one with 'vislex train reader'")
    with reading(f"no reader can be read from '{folder}'"):
        reader, info = Reader.from_pretrained(
            folder, config=config, output_loading_info=True, use_safetensors=True, dtype=torch.float32
        )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"the reader at '{folder}' is incomplete: {', '.join(missing)} are missing")
    check_weights(reader.state_dict(), folder)
    return reader.eval()


def _stem(channels: Sequence[int]) -> nn.Sequential:
    """Convolutions that halve the side once for each entry; a few see far better than patches do after short training.

    Group norm, because a moving average of the weights knows no running statistics.
    """
    layers: list[nn.Module] = []
    before = 3
    for place, width in enumerate(channels):
        for stride in (2, 1) if place < len(channels) - 1 else (2,):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.GroupNorm(8, width), nn.GELU()]
            before = width
    return nn.Sequential(*layers)
