"""TailDrop: in training only the first k of n tokens are kept, so that the first ones learn to carry most (ViLex)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vislex.errors import ConfigError, did_you_mean

__all__ = ["TAIL_DROPS", "TailDrop", "keep_counts", "keep_mask"]

TailDrop = Literal["uniform", "pow2", "uniform_pow2", "none"]
TAIL_DROPS = ("uniform", "pow2", "uniform_pow2", "none")


def keep_counts(strategy: TailDrop, n_tokens: int, batch: int, *, generator: torch.Generator | None = None) -> Tensor:
    """How many tokens each image of a batch keeps, int64[batch] in 1 ... n_tokens, on the CPU.

    The ViLex paper does not say how k is drawn.

    Args:
        strategy: "uniform": every count is as likely; "pow2": a power of two, or all tokens, every one as likely;
            "uniform_pow2": uniform, rounded up to the next power of two (at most all), so that large counts are
            frequent and small ones are not rare (FlexTok, arXiv 2502.13967); "none": all tokens.
        n_tokens: n.
        batch: Number of images.
        generator: Draws from it instead of the global generator.

    Raises:
        ConfigError: If there is no such strategy.
    """
    if strategy == "none":
        return torch.full((batch,), n_tokens)
    if strategy == "uniform":
        return torch.randint(1, n_tokens + 1, (batch,), generator=generator)
    powers = torch.tensor([*(2**i for i in range((n_tokens - 1).bit_length())), n_tokens])
    if strategy == "pow2":
        return powers[torch.randint(len(powers), (batch,), generator=generator)]
    if strategy == "uniform_pow2":
        drawn = torch.randint(1, n_tokens + 1, (batch,), generator=generator)
        return powers[torch.searchsorted(powers, drawn)]
    raise ConfigError(
        f"unknown TailDrop strategy '{strategy}'{did_you_mean(strategy, TAIL_DROPS)} Known: {', '.join(TAIL_DROPS)}"
    )


def keep_mask(counts: Tensor, n_tokens: int) -> Tensor:
    """bool[B, n_tokens], True on the first ``counts`` int64[B] tokens of each image."""
    return torch.arange(n_tokens, device=counts.device)[None] < counts[:, None]
