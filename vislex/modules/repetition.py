"""``RepetitionBias``: what a word elsewhere in the caption says for or against the same word here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RepetitionBias"]


class RepetitionBias(nn.Module):
    """Adds to the logits of each word a learned multiple of how often it stands at the other positions.

    An autoregressive decoder learns early that an object is named once. One that writes all words at once does not: it
    gives two places that are both free the most salient object, and goes on doing so when the word at one of them is
    known. The bias lets it say that with one number a word: "and" may come again, "snowman" may not.

    Args:
        vocab_size: Words.
        scale: Of the learned numbers; above 1 they are learned faster than other weights.
    """

    def __init__(self, vocab_size: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, logits: Tensor, ids: Tensor, visible: Tensor) -> Tensor:
        """Logits float[B, L, V] with the bias.

        Args:
            logits: float[B, L, V].
            ids: int64[B, L], a word at each position.
            visible: bool[B, L], positions whose word is known.
        """
        known = visible.to(logits.dtype)
        counts = logits.new_zeros(len(ids), logits.shape[-1]).scatter_add(1, ids, known)
        bias = (self.scale * self.weight).to(logits.dtype)
        own = (bias[ids] * known)[..., None]  # a word does not speak about its own position
        return (logits + (bias * counts)[:, None]).scatter_add(-1, ids[..., None], -own)
