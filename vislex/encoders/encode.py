"""Encoding many images with one encoder, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from vislex.encoders.base import VisionEncoder
from vislex.errors import ConfigError
from vislex.processing import create_image_processor
from vislex.specs import VisionTokens

__all__ = ["encode_batches", "encode_images"]


def encode_batches(
    encoder: VisionEncoder, images: Iterable[Any], *, batch_size: int = 32, image_processor: Any = None
) -> Iterator[VisionTokens]:
    """Encodes images batch by batch on the encoder's device and in its dtype, without gradients and in eval mode.

    Args:
        encoder: A vision encoder.
        images: PIL images (or arrays that transformers' image processors take); drawn as they are needed.
        batch_size: Images a forward pass. Small batches stay in a CPU's cache: 16 to 32 are fastest there.
        image_processor: Default: that of the encoder's spec.

    Yields:
        Tokens of one batch, on the CPU; the last may be smaller.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    processor = image_processor or create_image_processor(encoder.spec)
    was_training = encoder.training
    encoder.eval()
    remaining = iter(images)
    try:
        while batch := list(islice(remaining, batch_size)):
            inputs = processor(batch, return_tensors="pt").to(encoder.device)
            with torch.inference_mode():
                output = encoder(**inputs)
            yield VisionTokens(*(_to_cpu(part) for part in (output.tokens, output.mask, output.pooled)))
    finally:
        encoder.train(was_training)


def encode_images(
    encoder: VisionEncoder,
    images: Iterable[Any],
    batch_size: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    image_processor: Any = None,
    progress: Callable[[int], Any] | None = None,
) -> VisionTokens:
    """Encodes all images.

    Args:
        encoder: A vision encoder; moved to ``device`` and ``dtype`` if they are given.
        images: See ``encode_batches``.
        batch_size: Images a forward pass.
        device: Where to compute; None leaves the encoder where it is.
        dtype: Number format of weights, computation and result; None leaves the encoder's.
        image_processor: Default: that of the encoder's spec.
        progress: Called with the number of images after each batch.

    Returns:
        float[N, n_tokens, D], with mask bool[N, n_tokens] and pooled float[N, D'] where the encoder gives them; on
        the CPU.

    Raises:
        ConfigError: If there are no images.
    """
    if device is not None:
        encoder.to(device)
    if dtype is not None:
        encoder.to(dtype)
    parts = []
    for part in encode_batches(encoder, images, batch_size=batch_size, image_processor=image_processor):
        parts.append(part)
        if progress is not None:
            progress(len(part.tokens))
    if not parts:
        raise ConfigError("there are no images to encode")
    joined = [
        None if parts[0].__dict__[name] is None else torch.cat([part.__dict__[name] for part in parts])
        for name in ("tokens", "mask", "pooled")
    ]
    return VisionTokens(*joined)  # type: ignore[arg-type]


def _to_cpu(tensor: torch.Tensor | None) -> torch.Tensor | None:
    # clone: tensors of inference mode could not be trained on
    return None if tensor is None else tensor.cpu().clone()
