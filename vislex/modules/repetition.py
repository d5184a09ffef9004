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

    def forward(self, shares: Tensor) -> Tensor:
        """Bias of the logits, float32[B, L, V].

        Args:
            shares: float32[B, L, V], of each word at each position: 1 on a word that is known, all 0 where nothing is.
        """
        elsewhere = shares.sum(1, keepdim=True) - shares
        return self.scale * self.weight.float() * elsewhere
