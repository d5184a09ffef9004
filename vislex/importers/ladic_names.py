"""Names of the released LaDiC's weights, and the sizes that can be read from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vislex.errors import CheckpointError
from vislex.importers.names import Names, check_names, count_layers

__all__ = ["ReleasedSizes", "codec_names", "denoiser_names", "is_unused", "text_names", "vision_names"]

VISION, TEXT, HEAD, DENOISER = "visual_encoder.", "space_encoder.", "lm_head.predictions.", "diffuser."
TIME_NORM = "time_layer_norm."
# space_decoder is never run, the diffuser is given latents in the place of embedded words, the bias of the head stands
# there under two names, and the others are no weights.
_UNUSED = re.compile(
    r"space_decoder\..*|diffuser\.embeddings\.word_embeddings\.weight|lm_head\.predictions\.decoder\.bias|"
    r".*\.(position_ids|token_type_ids)"
)
_BOTH = ("weight", "bias")


def is_unused(name: str) -> bool:
    """Whether the released function does not depend on a tensor of its checkpoint."""
    return _UNUSED.fullmatch(name) is not None


@dataclass(frozen=True)
class ReleasedSizes:
    """Sizes of a released LaDiC.

    Attributes:
        vocab_size: Word pieces of text encoder and head.
        latent_dim: Width of the text encoder.
        text_layers: Layers of the lower half of the text encoder.
        text_intermediate: Width inside their MLPs.
        text_positions: Positions of the text encoder.
        text_types: Its token types.
        vision_dim: Width of the ViT.
        vision_layers: Its layers.
        vision_intermediate: Width inside their MLPs.
        patch_size: Pixels along a side of a patch.
        image_size: Pixels along a side of the image.
        num_layers: Layers of the denoiser.
        intermediate_size: Width inside their MLPs.
        positions: Positions of the denoiser.
    """

    vocab_size: int
    latent_dim: int
    text_layers: int
    text_intermediate: int
    text_positions: int
    text_types: int
    vision_dim: int
    vision_layers: int
    vision_intermediate: int
    patch_size: int
    image_size: int
    num_layers: int
    intermediate_size: int
    positions: int

    @classmethod
    def read(cls, state: Mapping[str, Tensor], what: str) -> ReleasedSizes:
        """Reads the sizes of a checkpoint.

        Args:
            state: The checkpoint.
            what: Beginning of an error.

        Raises:
            CheckpointError: If it lacks a tensor that tells a size, or the sizes contradict each other.
        """
        telling = {
            "words": (f"{TEXT}embeddings.word_embeddings.weight", 2),
            "positions": (f"{TEXT}embeddings.position_embeddings.weight", 2),
            "types": (f"{TEXT}embeddings.token_type_embeddings.weight", 2),
            "text": (f"{TEXT}encoder.layer.0.intermediate.dense.weight", 2),
            "head": (f"{HEAD}decoder.weight", 2),
            "patches": (f"{VISION}patch_embed.proj.weight", 4),
            "cells": (f"{VISION}pos_embed", 3),
            "vision": (f"{VISION}blocks.0.mlp.fc1.weight", 2),
            "places": (f"{DENOISER}embeddings.position_embeddings.weight", 2),
            "mlp": (f"{DENOISER}encoder.layer.0.intermediate.dense.weight", 2),
        }
        check_names(state.keys(), {name for name, _ in telling.values()}, state.keys(), what)
        for name, dims in telling.values():
            if len(shape := tuple(state[name].shape)) != dims:
                raise CheckpointError(f"{what}: {name} has shape {shape}, expected {dims} dimensions")
        shapes = {key: tuple(state[name].shape) for key, (name, _) in telling.items()}
        cells = shapes["cells"][1] - 1
        side = math.isqrt(max(cells, 0))
        if cells < 1 or side**2 != cells:
            raise CheckpointError(
                f"{what}: visual_encoder has {cells + 1} positions; a class token and a square of patches are expected"
            )
        sizes = cls(
            vocab_size=shapes["head"][0],
            latent_dim=shapes["head"][1],
            text_layers=count_layers(state, f"{TEXT}encoder.layer."),
            text_intermediate=shapes["text"][0],
            text_positions=shapes["positions"][0],
            text_types=shapes["types"][0],
            vision_dim=shapes["patches"][0],
            vision_layers=count_layers(state, f"{VISION}blocks."),
            vision_intermediate=shapes["vision"][0],
            patch_size=shapes["patches"][2],
            image_size=shapes["patches"][2] * side,
            num_layers=count_layers(state, f"{DENOISER}encoder.layer."),
            intermediate_size=shapes["mlp"][0],
            positions=shapes["places"][0],
        )
        if shapes["words"] != shapes["head"]:
            raise CheckpointError(
                f"{what}: space_encoder has {shapes['words'][0]} word pieces of width {shapes['words'][1]}, lm_head "
                f"{shapes['head'][0]} of width {shapes['head'][1]}; they are of different BERTs"
            )
        if shapes["places"][1] != 2 * sizes.latent_dim:
            raise CheckpointError(
                f"{what}: its diffuser is {shapes['places'][1]} wide, but with latents of width {sizes.latent_dim} it "
                f"must be {2 * sizes.latent_dim}: it was trained on the latents of another BERT"
            )
        return sizes


def vision_names(n_layers: int) -> Names:
    """Of transformers' ``BlipVisionModel``."""
    names = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        **_both("embeddings.patch_embedding", "patch_embed.proj"),
        **_both("post_layernorm", "norm"),
    }
    for i in range(n_layers):
        for ours, theirs in {
            "layer_norm1": "norm1",
            "self_attn.qkv": "attn.qkv",
            "self_attn.projection": "attn.proj",
            "layer_norm2": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }.items():
            names |= _both(f"encoder.layers.{i}.{ours}", f"blocks.{i}.{theirs}")
    return {ours: (VISION + theirs,) for ours, theirs in names.items()}


def text_names(n_layers: int) -> Names:
    """Of transformers' ``BertModel`` without its pooler."""
    parts = ["embeddings.LayerNorm"]
    for i in range(n_layers):
        parts += [f"encoder.layer.{i}.attention.self.{part}" for part in ("query", "key", "value")]
        parts += [f"encoder.layer.{i}.attention.output.{part}" for part in ("dense", "LayerNorm")]
        parts += [f"encoder.layer.{i}.{part}" for part in ("intermediate.dense", "output.dense", "output.LayerNorm")]
    names = [f"{part}.{kind}" for part in parts for kind in _BOTH]
    names += [f"embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")]
    return {name: (TEXT + name,) for name in names}


def codec_names() -> Names:
    """Of the head of a ``LatentCodec``."""
    names = {
        **_both("transform.0", "transform.dense"),
        **_both("transform.2", "transform.LayerNorm"),
        "embeddings.weight": "decoder.weight",
        "bias": "bias",
    }
    return {ours: (HEAD + theirs,) for ours, theirs in names.items()}


def denoiser_names(n_layers: int, *, has_time_norm: bool) -> Names:
    """Of a ``Denoiser`` after BERT's manner, without its null image."""
    names: dict[str, tuple[str, ...]] = {
        "position.weight": ("embeddings.position_embeddings.weight",),
        **{f"norm.{kind}": (f"embeddings.LayerNorm.{kind}",) for kind in _BOTH},
    }
    for i in range(n_layers):
        layer = f"encoder.layer.{i}."
        for ours, theirs in {
            "attention.qkv": [f"attention.self.{part}" for part in ("query", "key", "value")],
            "attention.out": ["attention.output.dense"],
            "norms.0": ["attention.output.LayerNorm"],
            "crossing.query": ["crossattention.self.query"],
            "crossing.key_value": ["crossattention.self.key", "crossattention.self.value"],
            "crossing.out": ["crossattention.output.dense"],
            "norms.1": ["crossattention.output.LayerNorm"],
            "mlp.0": ["intermediate.dense"],
            "mlp.2": ["output.dense"],
            "norms.2": ["output.LayerNorm"],
        }.items():
            for kind in _BOTH:
                names[f"layers.{i}.{ours}.{kind}"] = tuple(f"{layer}{part}.{kind}" for part in theirs)
    all_names = {ours: tuple(DENOISER + part for part in theirs) for ours, theirs in names.items()}
    if has_time_norm:
        all_names |= {f"table_norm.{kind}": (TIME_NORM + kind,) for kind in _BOTH}
    return all_names


def _both(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in _BOTH}
