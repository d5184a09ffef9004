"""Latents of captions under a frozen text encoder, computed once for each distinct caption and memory-mapped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vislex.cache import cache_dir as user_cache
from vislex.decoders.ladic.codec import LatentCodec
from vislex.training.cache import array_on_disk, content_key, in_batches
from vislex.training.captions import CaptionBank

__all__ = ["LatentStore", "cached_latents"]

FORMAT = 1


@dataclass(frozen=True)
class LatentStore:
    """Latents of the words of every caption of a bank; those of special tokens are not stored.

    Attributes:
        key: Hash of text encoder, statistics and captions.
        array: float16[W, D] memory-mapped, the words of all distinct captions one after the other.
        first: int64[C], where the words of each caption of the bank begin.
        lengths: int64[C], tokens of each caption with the first and the last special one.
        was_cached: Whether it was there before the call.
    """

    key: str
    array: np.ndarray
    first: np.ndarray
    lengths: np.ndarray
    was_cached: bool

    def latents(self, chosen: np.ndarray) -> Tensor:
        """float16[B, longest, D] of the captions int64[B]; zeros where there is no word."""
        lengths = self.lengths[chosen, None]
        place = np.arange(lengths.max())
        is_word = (place > 0) & (place < lengths - 1)
        latents = np.zeros((*is_word.shape, self.array.shape[1]), dtype=self.array.dtype)
        latents[is_word] = self.array[(self.first[chosen, None] + place - 1)[is_word]]
        return torch.from_numpy(latents)


def cached_latents(
    codec: LatentCodec, bank: CaptionBank, *, cache_dir: Path | None = None, batch_size: int = 256
) -> LatentStore:
    """Encodes a bank's captions, or opens what an earlier call encoded.

    Args:
        codec: Its text encoder is frozen, and so are the statistics of its latents.
        bank: The captions.
        cache_dir: Cache folder; None is ``<cache>/latents``.
        batch_size: Captions a forward.
    """
    _, rows, which = np.unique(bank.text_ids, return_index=True, return_inverse=True)
    words = bank.lengths[rows] - 2
    starts = np.concatenate([[0], np.cumsum(words)])
    constants = (bank.input_ids[rows], *(value.cpu().numpy() for value in (codec.token_index, codec.mean, codec.std)))
    describe = {
        "format": FORMAT,
        "text_encoder": codec.config.source,
        "split_layer": codec.config.split_layer,
        "constants": [hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() for value in constants],
    }
    key = content_key(describe)

    def fill(array: np.ndarray, folder: Path) -> None:
        by_length = np.argsort(words, kind="stable")
        for batch in in_batches(len(rows), batch_size):
            own = by_length[batch]
            given = bank.batch(rows[own])
            ids, mask = (given[name].to(codec.device) for name in ("input_ids", "attention_mask"))
            latents = codec.encode(ids, mask, dtype=torch.float32).half().cpu()
            for caption, of_words in zip(own, latents.numpy(), strict=True):
                array[starts[caption] : starts[caption + 1]] = of_words[1 : words[caption] + 1]

    root = user_cache() / "latents" if cache_dir is None else Path(cache_dir)
    shape = (int(starts[-1]), codec.latent_dim)
    array, found = array_on_disk(root / key[:32], shape=shape, dtype=np.float16, fill=fill, describe=describe)
    return LatentStore(key, array, starts[which.reshape(-1)], bank.lengths, found)
