"""Given words on the way into the denoising loop, and whole captions on the way out of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vislex.decoders.ladic.codec import LatentCodec

__all__ = ["given_words", "whole_captions"]


def given_words(
    codec: LatentCodec, input_ids: Tensor | None, known_mask: Tensor | None, rows: Tensor, length: int
) -> tuple[Tensor, Tensor] | None:
    """Given words int64[R, L] and bool[R, L] where they are given; behind a given end all is.

    Args:
        codec: Whose special tokens these are.
        input_ids: int64[B, P], or None if no word is given.
        known_mask: bool[B, P], which of them are given; all by default.
        rows: int64[R] of the captions that are denoised.
        length: L.
    """
    if input_ids is None:
        return None
    ids = input_ids[rows]
    mask = torch.ones_like(ids, dtype=torch.bool) if known_mask is None else known_mask[rows]
    more = length - ids.shape[1]
    ids = F.pad(ids, (0, more), value=codec.config.pad_token_id)
    mask = F.pad(mask, (0, more), value=False)
    is_end = mask & (ids == codec.config.eos_token_id)
    behind = (is_end.cumsum(1) > 0) & ~is_end
    return ids.masked_fill(behind, codec.config.pad_token_id), mask | behind


def whole_captions(
    codec: LatentCodec, ids: Tensor, known: tuple[Tensor, Tensor] | None, *, fixed_ends: bool = True
) -> Tensor:
    """Puts the given words in their places, and the special tokens around the words: int64[R, L].

    Without ``fixed_ends`` the first and last position may hold words too: int64[R, L + 2].

    Args:
        codec: Whose special tokens these are.
        ids: int64[R, L] as read from latents.
        known: What ``given_words`` gave.
        fixed_ends: Whether both ends are [CLS] and [SEP], as in every training caption.
    """
    config = codec.config
    ids = ids.clone()
    if fixed_ends:
        ids[:, -1] = config.eos_token_id
    ids = codec.targets(ids if known is None else torch.where(known[1], known[0], ids))
    if not fixed_ends:
        # An end on both sides; a caption begins with its first word there.
        ids = F.pad(ids, (1, 1), value=config.stop_token_id)
        first = (ids != config.stop_token_id).int().argmax(1).clamp(min=1) - 1
        place = torch.arange(ids.shape[1], device=ids.device)
        ids = ids.gather(1, (place + first[:, None]) % ids.shape[1])
    place = torch.arange(ids.shape[1], device=ids.device)
    ends = torch.where(ids == config.stop_token_id, 0, place).amax(1)  # last word; 0 if there is none
    finished = torch.full_like(ids, config.pad_token_id)
    for row, last in enumerate(ends.tolist()):
        words = ids[row, 1 : last + 1]
        words = words[words != config.eos_token_id]  # where the end token is the stop: a gap holds no word
        finished[row, 0] = config.bos_token_id
        finished[row, 1 : len(words) + 1] = words
        finished[row, len(words) + 1 : len(words) + 2] = config.eos_token_id
    return finished
