"""``LengthHead``: how long the caption of an image will be, for decoders that write all words at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vislex.specs import VisionTokens

__all__ = ["LengthHead"]


class LengthHead(nn.Module):
    """Attention pooling of the vision tokens by one learned query, and a classifier of the number of word pieces.

    Args:
        hidden_size: Width of the (projected) vision tokens.
        num_lengths: Number of classes: lengths 0, 1, ..., ``num_lengths`` - 1.
    """

    def __init__(self, hidden_size: int, num_lengths: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, 1)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, num_lengths))

    def forward(self, vision: VisionTokens) -> Tensor:
        """Log-probabilities float32[B, num_lengths]."""
        scores = self.query(vision.tokens).squeeze(-1).float()  # [B, N]
        if vision.mask is not None:
            scores = scores.masked_fill(~vision.mask, -torch.inf)
        pooled = scores.softmax(-1).to(vision.tokens.dtype)[:, None] @ vision.tokens  # [B, 1, D]
        logits: Tensor = self.mlp(pooled.squeeze(1)).float()
        return logits.log_softmax(-1)
