"""``NeighbourMixing``: what stands left and right of each word, before any attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NeighbourMixing"]


class NeighbourMixing(nn.Module):
    """Adds linear maps of the words on both sides (a convolution of width 3).

    A masked word has no content of its own, and attention must first learn for every position where its neighbours
    are: small models stay at the loss of single-word frequencies for hundreds of steps. This takes them off it at once.

    Args:
        hidden_size: Width.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.left = nn.Linear(hidden_size, hidden_size, bias=False)
        self.right = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor, token_mask: Tensor) -> Tensor:
        """float[B, L, H] and bool[B, L] -> float[B, L, H]; padding is nobody's neighbour."""
        seen = hidden * token_mask[..., None].to(hidden.dtype)
        before, after = F.pad(seen[:, :-1], (0, 0, 1, 0)), F.pad(seen[:, 1:], (0, 0, 0, 1))
        mixed: Tensor = hidden + self.left(before) + self.right(after)
        return mixed
