"""``Denoiser``: a bidirectional text transformer that looks at vision tokens; diffusion decoders share it.

The vision tokens' keys and values do not change from one denoising step to the next: ``vision_state`` computes them
once, ``forward`` takes them at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization
from transformers.modeling_layers import GradientCheckpointingLayer

from vislex.errors import ConfigError, SpecError
from vislex.specs import VisionTokens

__all__ = ["Denoiser", "VisionState", "sinusoidal_embedding", "start_as_sines"]

TimeEmbedding = Literal["add", "table", "none"]
TimeNorm = Literal["none", "always", "evaluation"]


@dataclass(frozen=True)
class VisionState:
    """Keys and values of the vision tokens in every layer.

    Attributes:
        keys: For each layer float[B, heads, N, head_dim].
        values: The same for the values.
        mask: bool[B, 1, 1, N], True on real tokens; None if all are.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys[0])

    def map(self, change: Callable[[Tensor], Tensor]) -> VisionState:
        """Applies a function of the rows to every tensor."""
        mask = None if self.mask is None else change(self.mask)
        return VisionState(tuple(map(change, self.keys)), tuple(map(change, self.values)), mask)

    def select(self, rows: Tensor) -> VisionState:
        """The rows int64[R] or bool[B]: what stays when captions leave a batch."""
        return self.map(lambda value: value[rows])

    def repeat(self, times: int) -> VisionState:
        """Each row ``times`` times in a row: candidates of one image share what was computed for it."""
        return self.map(lambda value: value.repeat_interleave(times, dim=0))

    def join(self, other: VisionState) -> VisionState:
        """The rows of both, one after the other; both must have the same number of tokens."""
        mask = None
        if self.mask is not None or other.mask is not None:
            masks = [state.mask if state.mask is not None else state._all_real() for state in (self, other)]
            mask = torch.cat(masks)
        pairs = (zip(self.keys, other.keys, strict=True), zip(self.values, other.values, strict=True))
        keys, values = (tuple(torch.cat(pair) for pair in side) for side in pairs)
        return VisionState(keys, values, mask)

    def _all_real(self) -> Tensor:
        batch, _, n_tokens, _ = self.keys[0].shape
        return self.keys[0].new_ones(batch, 1, 1, n_tokens, dtype=torch.bool)


def sinusoidal_embedding(timesteps: Tensor, dim: int, *, interleaved: bool = False) -> Tensor:
    """Sines, then cosines, of the time at geometrically spaced frequencies (Ho et al. 2020): float32[..., dim].

    Computed when needed: a table would be a non-persistent buffer, which loading on the meta device leaves empty.

    Args:
        timesteps: int64[...] or float[...].
        dim: Even width.
        interleaved: Whether each sine is followed by the cosine of its frequency, as in Vaswani et al. 2017.
    """
    half = dim // 2
    steps = torch.arange(half, device=timesteps.device, dtype=torch.float32)
    angles = timesteps[..., None].float() * torch.exp(-math.log(10000.0) / half * steps)
    if interleaved:
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def start_as_sines(position: nn.Embedding, size: float) -> None:
    """Starts learned positions as sines of standard deviation ``size``, in which a shift is one linear map."""
    places = torch.arange(position.num_embeddings, device=position.weight.device)
    initialization.copy_(position.weight, 2**0.5 * size * sinusoidal_embedding(places, position.embedding_dim))


class Denoiser(nn.Module):
    """Transformer layers of self-attention over the words, cross-attention to the vision tokens and an MLP.

    Args:
        hidden_size: Width.
        num_layers: Number of layers.
        num_heads: Attention heads; they divide ``hidden_size``.
        intermediate_size: Width inside the MLPs.
        max_length: Most words, for the learned positions.
        vision_dim: Width of the (projected) vision tokens.
        dropout: Dropout of attention weights and of what a sub-layer adds.
        pre_norm: Norm before each sub-layer and one at the end; False puts it behind each, as BERT does.
        time_embedding: "add" adds an MLP of the sinusoidal embedding of the time, "table" the embedding itself with
            sines and cosines in turn (as the released LaDiC), "none" tells the network no time.
        time_norm: When the table's rows go through a LayerNorm: "none", "always", or in "evaluation" only, as the
            released LaDiC's.
        null_tokens: Learned tokens that stand for a dropped image: 1, or as many as there are vision tokens.
        layer_norm_eps: Of every LayerNorm.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_length: int,
        vision_dim: int,
        dropout: float = 0.0,
        pre_norm: bool = True,
        time_embedding: TimeEmbedding = "add",
        time_norm: TimeNorm = "none",
        null_tokens: int = 1,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads or hidden_size % 2:
            raise ConfigError(f"hidden_size {hidden_size} must be even and a multiple of num_heads {num_heads}")
        if time_norm != "none" and time_embedding != "table":
            raise ConfigError(f"time_norm '{time_norm}' needs time_embedding 'table', not '{time_embedding}'")
        self.hidden_size = hidden_size
        self.time_embedding, self.time_norm = time_embedding, time_norm
        self.position = nn.Embedding(max_length, hidden_size)
        self.null_vision = nn.Parameter(torch.zeros(null_tokens, vision_dim))
        if time_embedding == "add":
            self.time = nn.Sequential(
                nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
            )
        if time_norm != "none":
            self.table_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
            self.table_norm.requires_grad_(time_norm == "always")  # else training never sees it
        self.layers = nn.ModuleList(
            _Layer(hidden_size, num_heads, intermediate_size, vision_dim, dropout, pre_norm, layer_norm_eps)
            for _ in range(num_layers)
        )
        # Of the sum of embeddings after BERT's manner, else of the output.
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.pre_norm = pre_norm
        self.dropout = nn.Dropout(dropout)

    @property
    def max_length(self) -> int:
        return self.position.num_embeddings

    def vision_state(self, vision: VisionTokens, dropped: Tensor | None = None) -> VisionState:
        """Keys and values of every layer, computed once for all steps.

        Args:
            vision: Tokens float[B, N, vision_dim] and their mask.
            dropped: bool[B], True where the learned null image takes the place of the tokens.
        """
        tokens, mask = vision.tokens, vision.mask
        if dropped is not None:
            tokens = torch.where(dropped[:, None, None], self._null_like(tokens.shape[1]).to(tokens.dtype), tokens)
            mask = None if mask is None else mask | dropped[:, None]
        keys, values = zip(*(layer.crossing.keys_values(tokens) for layer in self.layers), strict=True)
        return VisionState(keys, values, None if mask is None else mask[:, None, None])

    def guided_state(self, state: VisionState) -> VisionState:
        """A state of 2 B rows, first the images and then as many null images: both passes of guidance in one batch."""
        n_tokens = state.keys[0].shape[2]
        null = self.vision_state(VisionTokens(self._null_like(n_tokens)[None]))
        return state.join(null.map(lambda value: value.expand(len(state), -1, -1, -1)))

    def _null_like(self, n_tokens: int) -> Tensor:
        own = len(self.null_vision)
        if own not in (1, n_tokens):
            raise SpecError(f"the null image has {own} tokens, the images have {n_tokens}; they must be as many, or 1")
        return self.null_vision.expand(n_tokens, -1)

    def forward(
        self,
        hidden: Tensor,
        state: VisionState,
        token_mask: Tensor | None = None,
        timesteps: Tensor | None = None,
    ) -> Tensor:
        """Denoises.

        Args:
            hidden: float[B, L, H] embedded words or projected latents; positions are added here.
            state: Of the same B rows.
            token_mask: bool[B, L], True on the words to attend to.
            timesteps: int64[B], or int64[B, L] for a time of each word; needed unless ``time_embedding`` is "none".

        Returns:
            float[B, L, H].
        """
        length = hidden.shape[1]
        if length > self.max_length:
            raise SpecError(f"{length} words are more than the {self.max_length} that this denoiser has positions for")
        hidden = hidden + self.position.weight[:length]
        if self.time_embedding != "none":
            if timesteps is None:
                raise SpecError("this denoiser is told the time; pass timesteps= int64[B] or int64[B, L]")
            hidden = hidden + self._time(timesteps if timesteps.ndim == 2 else timesteps[:, None]).to(hidden.dtype)
        if not self.pre_norm:
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        mask = None if token_mask is None else token_mask[:, None, None]  # [B, 1, 1, L]
        for layer, keys, values in zip(self.layers, state.keys, state.values, strict=True):
            hidden = layer(hidden, mask, keys, values, state.mask)
        return self.norm(hidden) if self.pre_norm else hidden

    def _time(self, timesteps: Tensor) -> Tensor:
        if self.time_embedding == "add":
            projected: Tensor = self.time(
                sinusoidal_embedding(timesteps, self.hidden_size).to(self.time[0].weight.dtype)
            )
            return projected
        row = sinusoidal_embedding(timesteps, self.hidden_size, interleaved=True)
        if self.time_norm == "always" or (self.time_norm == "evaluation" and not self.training):
            row = self.table_norm(row.to(self.table_norm.weight.dtype))
        return row


class _Layer(GradientCheckpointingLayer):
    """Self-attention, cross-attention and MLP; each adds to the residual stream."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        vision_dim: int,
        dropout: float,
        pre_norm: bool,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = _SelfAttention(hidden_size, num_heads, dropout)
        self.crossing = _CrossAttention(hidden_size, num_heads, vision_dim, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, intermediate_size), nn.GELU(), nn.Linear(intermediate_size, hidden_size)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size, eps=layer_norm_eps) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor, vision_mask: Tensor | None
    ) -> Tensor:
        hidden = self._add(0, hidden, lambda x: self.attention(x, mask))
        hidden = self._add(1, hidden, lambda x: self.crossing(x, keys, values, vision_mask))
        return self._add(2, hidden, self.mlp)

    def _add(self, index: int, hidden: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        norm = self.norms[index]
        if self.pre_norm:
            return hidden + self.dropout(part(norm(hidden)))
        normed: Tensor = norm(hidden + self.dropout(part(hidden)))
        return normed


class _SelfAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (_heads(part, self.num_heads) for part in self.qkv(hidden).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        mixed: Tensor = self.out(
            _join(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout))
        )
        return mixed


class _CrossAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, vision_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(vision_dim, 2 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def keys_values(self, vision: Tensor) -> tuple[Tensor, Tensor]:
        key, value = (_heads(part, self.num_heads).contiguous() for part in self.key_value(vision).chunk(2, dim=-1))
        return key, value

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        query = _heads(self.query(hidden), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        seen: Tensor = self.out(
            _join(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout))
        )
        return seen


def _heads(hidden: Tensor, num_heads: int) -> Tensor:
    """float[B, L, H] -> float[B, heads, L, head_dim]."""
    return hidden.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _join(heads: Tensor) -> Tensor:
    """float[B, heads, L, head_dim] -> float[B, L, H]."""
    return heads.transpose(1, 2).flatten(2)
