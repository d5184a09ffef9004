"""``AttentionPooling``: n learnable queries that look at an encoder's tokens (ViLex, De-Diffusion)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from vislex.errors import ConfigError
from vislex.specs import VisionTokens

__all__ = ["AttentionPooling"]

MAX_DEPTH = 5


class AttentionPooling(nn.Module):
    """Layers of cross-attention to the tokens and an MLP, on learnable queries.

    A query never looks at another, so that the first k outputs are the same whether or not the others are computed:
    fewer tokens cost less, and dropping the tail in training leaves nothing of it behind. Queries and keys start large
    enough for every query to look at patches of its own: queries that start by averaging all patches are slow to learn
    where to look.

    Args:
        vision_dim: Width of the encoder's tokens.
        n_tokens: Number of queries.
        hidden_size: Width inside; the heads divide it.
        depth: Layers, 1 to 5.
        num_heads: Attention heads.
        mlp_ratio: Width inside the MLPs, in widths.

    Raises:
        ConfigError: If a size does not fit.
    """

    def __init__(
        self, vision_dim: int, n_tokens: int, *, hidden_size: int, depth: int, num_heads: int, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        problems = []
        if not 1 <= depth <= MAX_DEPTH:
            problems.append(f"depth {depth} must be 1 to {MAX_DEPTH}")
        if n_tokens < 1:
            problems.append(f"n_tokens {n_tokens} must be at least 1")
        if num_heads < 1 or hidden_size % num_heads:
            problems.append(f"num_heads {num_heads} must divide hidden_size {hidden_size}")
        if problems:
            raise ConfigError("invalid attention pooling: " + "; ".join(problems))
        self.queries = nn.Parameter(torch.randn(n_tokens, hidden_size))
        self.norm_tokens = nn.LayerNorm(vision_dim)
        inner = int(mlp_ratio * hidden_size)
        self.layers = nn.ModuleList(_Layer(vision_dim, hidden_size, num_heads, inner) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, vision: VisionTokens, n_tokens: int | None = None) -> Tensor:
        """Pools an image into its first ``n_tokens`` tokens (default: all).

        Args:
            vision: Tokens float[B, N, D] and their mask.
            n_tokens: 1 to the number of queries.

        Returns:
            float[B, n_tokens, hidden_size].
        """
        count = len(self.queries) if n_tokens is None else n_tokens
        if not 1 <= count <= len(self.queries):
            raise ConfigError(f"n_tokens {count} must be 1 to {len(self.queries)}, the tokens that were trained")
        tokens = self.norm_tokens(vision.tokens)
        mask = None if vision.mask is None else vision.mask[:, None, None, :]  # [B, 1, 1, N]
        hidden = self.queries[:count].to(tokens.dtype).expand(len(tokens), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, tokens, mask)
        pooled: Tensor = self.norm(hidden)
        return pooled


class _Layer(GradientCheckpointingLayer):
    def __init__(self, vision_dim: int, hidden_size: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(vision_dim, 2 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.norm_mlp = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, inner), nn.GELU(), nn.Linear(inner, hidden_size))
        for linear, std in ((self.query, 2.0), (self.key_value, 1.0), (self.out, 1.0)):
            nn.init.normal_(linear.weight, std=std * linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.key_value.weight[:hidden_size] *= 2  # the keys

    def forward(self, hidden: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        query = self._heads(self.query(self.norm_attention(hidden)))
        key, value = (self._heads(part) for part in self.key_value(tokens).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # [B, heads, n, head_dim]
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        grown: Tensor = hidden + self.mlp(self.norm_mlp(hidden))
        return grown

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, length, head_dim]
