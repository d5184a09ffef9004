"""Masks of what a vision-language model wrote: read by a codec from the text, or asked of the model's mask head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vislex.segmentation.codec import Decoded, MaskCodec
from vislex.segmentation.seg_head import SegHeadCodec

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["encode_once", "read_masks"]

_OF_PIXELS = ("pixel_values", "spatial_shapes", "pixel_attention_mask")


def encode_once(model: VisionLanguageModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a model with the encoder's tokens in place of pixels, which generation and mask head then share."""
    pixels = {name: inputs[name] for name in _OF_PIXELS if inputs.get(name) is not None}
    others = {name: value for name, value in inputs.items() if name not in _OF_PIXELS}
    with torch.no_grad():
        return {**others, "vision_tokens": model.encode(**pixels)} if pixels else others


def read_masks(
    model: Any,
    codec: MaskCodec,
    inputs: Mapping[str, Any],
    ids: Tensor,
    texts: Sequence[str],
    sizes: Sequence[tuple[int, int]],
) -> list[Decoded]:
    """What the answers of a batch mark.

    Args:
        model: The model, a ``VisionLanguageModel`` where the codec needs a head.
        codec: What it writes.
        inputs: What it was given, its prompts padded on the left.
        ids: int64[B, L], what it wrote behind them.
        texts: The same as text.
        sizes: Height and width of each image.
    """
    if not isinstance(codec, SegHeadCodec):
        return [codec.decode(text, size) for text, size in zip(texts, sizes, strict=True)]
    found = iter(_ask_head(model, inputs, ids, [codec.is_mask(text) for text in texts]))
    return [
        codec.decode(text, size, next(found) if codec.is_mask(text) else None)
        for text, size in zip(texts, sizes, strict=True)
    ]


@torch.no_grad()
def _ask_head(
    model: VisionLanguageModel, inputs: Mapping[str, Any], ids: Tensor, wanted: Sequence[bool]
) -> list[np.ndarray]:
    """Probabilities float32[h, w] of the answers that are wanted, each of which holds ``<SEG>``.

    The answers are read again as in training, all at once: their states do not depend on how they were searched for.
    """
    assert model.mask_head is not None
    if not any(wanted):
        return []
    is_mask = (ids == model.mask_head.settings.token_id) & torch.tensor(wanted, device=ids.device)[:, None]
    length = int(is_mask.long().argmax(1).max()) + 1
    written = ids[:, :length]
    prompt, mask = inputs["input_ids"], inputs["attention_mask"]
    reached = is_mask[:, :length].flip(1).cummax(1).values.flip(1)  # what stands up to <SEG> is an answer
    labels = torch.cat([torch.full_like(prompt, -100), written.masked_fill(~reached, -100)], 1)
    output = model(
        **{
            **inputs,
            "input_ids": torch.cat([prompt, written], 1),
            "attention_mask": torch.cat([mask, torch.ones_like(written)], 1),
            "labels": labels,
        }
    )
    return list(output.mask_logits.float().sigmoid().cpu().numpy())
