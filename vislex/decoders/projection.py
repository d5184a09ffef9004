"""From an encoder's tokens to a decoder's width, shared by all decoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vislex.errors import SpecError
from vislex.specs import Grid

__all__ = ["VisionProjection"]


class VisionProjection(nn.Module):
    """LayerNorm, linear map and, where the tokens form a fixed map, a learned position (row + column).

    The position matters for encoders that tell tokens apart by content only, as convolutional nets and latents do.

    Args:
        vision_dim: Width of the encoder's tokens.
        hidden_size: Width of the decoder.
        grid: Rows and columns of the map of tokens; None adds no position.
        norm: Whether the LayerNorm is there.
    """

    def __init__(
        self, vision_dim: int, hidden_size: int, grid: Sequence[int] | None = None, *, norm: bool = True
    ) -> None:
        super().__init__()
        self.grid = None if grid is None else Grid(*grid)
        self.norm = nn.LayerNorm(vision_dim) if norm else nn.Identity()
        self.linear = nn.Linear(vision_dim, hidden_size)
        if self.grid is not None:
            self.row = nn.Parameter(torch.zeros(self.grid.height, 1, hidden_size))
            self.column = nn.Parameter(torch.zeros(1, self.grid.width, hidden_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """float[B, N, vision_dim] -> float[B, N, hidden_size].

        Raises:
            SpecError: If the tokens are not the map of tokens that the decoder was built for.
        """
        hidden_states = self.linear(self.norm(tokens.to(self.linear.weight.dtype)))
        if self.grid is None:
            return hidden_states
        if tokens.shape[1] != self.grid.height * self.grid.width:
            raise SpecError(
                f"the decoder was built for a map of {self.grid.height} x {self.grid.width} vision tokens and got "
                f"{tokens.shape[1]}; build it from the spec of this encoder"
            )
        return hidden_states + (self.row + self.column).flatten(0, 1)  # [N, hidden_size]
