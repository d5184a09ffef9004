"""How many positions a caption is denoised in: all that there are, or as many as a head reads from the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vislex.specs import VisionTokens

__all__ = ["LengthHead", "bucket"]


def bucket(lengths: Tensor, size: int, longest: int) -> Tensor:
    """Lengths int64[B] rounded up to a multiple of ``size``, at most ``longest``."""
    return ((lengths + size - 1) // size * size).clamp(max=longest)


class LengthHead(nn.Module):
    """Reads from the mean of the vision tokens which bucket of lengths a caption falls into.

    Within a bucket the caption ends where only full stops follow.

    Args:
        hidden_size: Width of the projected vision tokens.
        size: Tokens of a bucket.
        longest: Most tokens of a caption.
    """

    def __init__(self, hidden_size: int, size: int, longest: int) -> None:
        super().__init__()
        self.size, self.longest = size, longest
        n_buckets = -(-longest // size)
        self.classifier = nn.Sequential(
            nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, n_buckets)
        )

    def forward(self, vision: VisionTokens) -> Tensor:
        """Logits float[B, buckets]."""
        if vision.mask is None:
            pooled = vision.tokens.mean(1)
        else:
            weights = vision.mask[..., None].to(vision.tokens.dtype)
            pooled = (vision.tokens * weights).sum(1) / weights.sum(1)
        logits: Tensor = self.classifier(pooled)
        return logits

    def loss(self, vision: VisionTokens, lengths: Tensor) -> Tensor:
        """Cross-entropy of the lengths int64[B] of captions in tokens."""
        return F.cross_entropy(self(vision).float(), (lengths - 1) // self.size)

    def predict(self, vision: VisionTokens) -> Tensor:
        """int64[B], the upper end of the likeliest bucket."""
        likeliest = self(vision).argmax(-1)
        return torch.clamp((likeliest + 1) * self.size, max=self.longest)
