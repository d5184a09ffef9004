"""Masks of what a vision-language model wrote: read from the text, from how sure the model was of it, or asked of the
model's mask head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vislex.composite import CompositeModel
from vislex.segmentation.codec import Decoded, MaskCodec
from vislex.segmentation.loc_seg import LocSegCodec
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
        model: The model, a ``VisionLanguageModel`` where the codec needs a head; of others the text alone is read.
        codec: What it writes.
        inputs: What it was given, its prompts padded on the left.
        ids: int64[B, L], what it wrote behind them.
        texts: The same as text.
        sizes: Height and width of each image.
    """
    if isinstance(codec, LocSegCodec) and codec.soft and isinstance(model, CompositeModel):
        likely = _ask_codes(model, codec, inputs, ids)
        return [codec.decode(text, size, own) for text, size, own in zip(texts, sizes, likely, strict=True)]
    if not isinstance(codec, SegHeadCodec):
        return [codec.decode(text, size) for text, size in zip(texts, sizes, strict=True)]
    found = iter(_ask_head(model, inputs, ids, [codec.is_mask(text) for text in texts]))
    return [
        codec.decode(text, size, next(found) if codec.is_mask(text) else None)
        for text, size in zip(texts, sizes, strict=True)
    ]


@torch.no_grad()
def _ask_codes(model: Any, codec: LocSegCodec, inputs: Mapping[str, Any], ids: Tensor) -> list[np.ndarray]:
    """Probabilities float32[N, K] of the N codes in each answer, given all that stands before them."""
    tokens = torch.tensor(model.processor.tokenizer.convert_tokens_to_ids(list(codec.code_tokens)), device=ids.device)
    is_code = torch.isin(ids, tokens)
    if not is_code.any():
        return [np.zeros((0, len(tokens)), dtype=np.float32)] * len(ids)
    output = _read_again(model, inputs, ids, is_code)
    likely = output.logits[..., tokens].float().softmax(-1)  # of the places with a code in any answer
    shared = is_code[:, is_code.any(0)]
    return [own[mask].cpu().numpy() for own, mask in zip(likely, shared, strict=True)]


def _read_again(model: Any, inputs: Mapping[str, Any], ids: Tensor, learned: Tensor) -> Any:
    """The model's output for answers int64[B, L], read as in training, at the places bool[B, L]."""
    prompt, mask = inputs["input_ids"], inputs["attention_mask"]
    return model(
        **{
            **inputs,
            "input_ids": torch.cat([prompt, ids], 1),
            "attention_mask": torch.cat([mask, torch.ones_like(ids)], 1),
            "labels": torch.cat([torch.full_like(prompt, -100), ids.masked_fill(~learned, -100)], 1),
        }
    )


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
    reached = is_mask[:, :length].flip(1).cummax(1).values.flip(1)  # what stands up to <SEG> is an answer
    output = _read_again(model, inputs, written, reached)
    return list(output.mask_logits.float().sigmoid().cpu().numpy())
