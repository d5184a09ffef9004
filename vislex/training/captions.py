"""All reference captions of a data set as token ids: tokenized once, one drawn for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

__all__ = ["CaptionBank", "generator"]


def generator(seed: int, position: int, purpose: str = "") -> np.random.Generator:
    """The randomness of one training sample; a recipe must draw from it alone, so that a resumed run repeats it.

    Draws for another ``purpose`` are independent, and change nothing about the others.
    """
    return np.random.default_rng([seed, position, *purpose.encode()])


class CaptionBank:
    """Token ids of every reference of every row.

    Args:
        references: For each row its captions (their numbers may differ).
        tokenizer: Adds its own first and last token.
        max_length: Longest caption in word pieces with special tokens; the rest is cut.

    Attributes:
        input_ids: int64[C, max_length], padded.
        lengths: int64[C].
        text_ids: int64[C], equal for equal token sequences.
    """

    def __init__(
        self, references: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerFast, *, max_length: int
    ) -> None:
        texts = [caption for captions in references for caption in captions]
        counts = np.array([len(captions) for captions in references], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        encoded = tokenizer(texts, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        self.lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        self.input_ids = np.full((len(texts), max_length), tokenizer.pad_token_id, dtype=np.int64)
        for i, ids in enumerate(encoded):
            self.input_ids[i, : len(ids)] = ids
        self.text_ids = np.unique(self.input_ids, axis=0, return_inverse=True)[1].reshape(-1)

    def __len__(self) -> int:
        return len(self.lengths)

    def pick(self, rows: np.ndarray, generators: Iterator[np.random.Generator]) -> np.ndarray:
        """Indices int64[B] of one random reference for each of the rows int64[B]."""
        first, last = self.starts[rows], self.starts[rows + 1]
        return np.array([int(g.integers(low, high)) for g, low, high in zip(generators, first, last, strict=False)])

    def batch(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels`` (-100 on padding), int64[B, longest]."""
        lengths = torch.from_numpy(self.lengths[chosen])
        input_ids = torch.from_numpy(self.input_ids[chosen, : int(lengths.max())])
        attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": input_ids.masked_fill(attention_mask == 0, -100),
        }
