"""How long the caption of an image will be, for decoders that write all words at once."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vislex.specs import VisionTokens

__all__ = ["LengthHead", "round_up"]


def round_up(lengths: Tensor, multiple: int, longest: int) -> Tensor:
    """Lengths int64[B] rounded up to a multiple, at most ``longest``."""
    return ((lengths + multiple - 1) // multiple * multiple).clamp(max=longest)


class LengthHead(nn.Module):
    """Attention pooling of the vision tokens by one learned query, and a classifier of the length.

    Args:
        hidden_size: Width of the (projected) vision tokens.
        num_lengths: Number of lengths: 0, 1, ..., ``num_lengths`` - 1.
        bucket: Lengths that share a class: class c stands for ``bucket`` * c and the ``bucket`` - 1 lengths after it.
    """

    def __init__(self, hidden_size: int, num_lengths: int, *, bucket: int = 1) -> None:
        super().__init__()
        self.num_lengths, self.bucket = num_lengths, bucket
        n_classes = -(-num_lengths // bucket)
        self.query = nn.Linear(hidden_size, 1)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, n_classes))

    def forward(self, vision: VisionTokens) -> Tensor:
        """Log-probabilities of the classes, float32[B, C]."""
        scores = self.query(vision.tokens).squeeze(-1).float()  # [B, N]
        if vision.mask is not None:
            scores = scores.masked_fill(~vision.mask, -torch.inf)
        pooled = scores.softmax(-1).to(vision.tokens.dtype)[:, None] @ vision.tokens  # [B, 1, D]
        logits: Tensor = self.mlp(pooled.squeeze(1)).float()
        return logits.log_softmax(-1)

    def loss(self, vision: VisionTokens, lengths: Tensor, *, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """Cross-entropy of lengths int64[B]."""
        return F.nll_loss(self(vision), lengths // self.bucket, reduction=reduction)

    def predict(self, vision: VisionTokens) -> Tensor:
        """int64[B], the longest length of the likeliest class."""
        likeliest = self(vision).argmax(-1)
        return ((likeliest + 1) * self.bucket - 1).clamp(max=self.num_lengths - 1)
