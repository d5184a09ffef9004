"""Which tokens see which: prefixes that look in both directions, also in packed sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import create_masks_for_generate

__all__ = ["positions_of", "prefix_blocks", "prefix_mask", "segments_of"]


def positions_of(attention_mask: Tensor) -> Tensor:
    """Positions int64[B, L] that count real tokens only, so that padding on the left moves nothing."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def segments_of(position_ids: Tensor) -> Tensor:
    """Number int64[B, L] of the packed sequence that each token belongs to: a new one begins where positions do."""
    return (position_ids == 0).long().cumsum(-1)


def prefix_blocks(labels: Tensor | None, segments: Tensor, is_real: Tensor) -> Tensor:
    """Blocks that see each other in both directions: each sequence up to its first answer.

    Args:
        labels: int64[B, L], -100 where no loss is taken; None: there is no answer yet.
        segments: int64[B, L], number of the packed sequence of each token.
        is_real: bool[B, L], False on padding.

    Returns:
        int64[B, L]: number of the block, -1 where attention is causal.
    """
    if labels is None:
        return torch.where(is_real, segments, -1)
    answers = (labels != -100).long().cumsum(-1)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    before = torch.where(starts, answers - (labels != -100).long(), 0).cummax(-1).values  # answers of earlier sequences
    return torch.where(is_real & (answers == before), segments, -1)


def prefix_mask(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Any,
    labels: Tensor | None,
) -> Any:
    """What a language model takes as ``attention_mask`` for prefixes in both directions.

    transformers builds it (``block_sequence_ids``), with one mask a kind of layer where kinds differ (Gemma).
    """
    is_real = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
    segments = torch.zeros_like(is_real, dtype=torch.long)
    if attention_mask is not None:
        is_real = attention_mask.bool()
    elif position_ids is not None:
        segments = segments_of(position_ids)
    return create_masks_for_generate(
        config,
        inputs_embeds,
        attention_mask,
        cache,
        position_ids=position_ids,
        block_sequence_ids=prefix_blocks(labels, segments, is_real),
    )
