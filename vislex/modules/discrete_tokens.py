"""Tokens that are words: a choice by logits through which gradients pass (De-Diffusion, arXiv 2311.00618)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vislex.errors import ConfigError

__all__ = ["ESTIMATORS", "Estimator", "choose_words"]

Estimator = Literal["straight_through", "gumbel"]
ESTIMATORS = ("straight_through", "gumbel")


def choose_words(
    logits: Tensor, table: Tensor, *, estimator: Estimator, temperature: float, training: bool
) -> tuple[Tensor, Tensor]:
    """Chooses one word for each token; forward it is exactly that word's embedding.

    Args:
        logits: float[B, K, V].
        table: float[V, D], the embeddings of the words.
        estimator: In training, "straight_through" takes the likeliest word and passes the gradient of the softmax at
            ``temperature``; "gumbel" draws a word from the logits and passes that of the Gumbel-softmax.
        temperature: Of the softmax: low ones are close to the choice, high ones pass gradients to more words.
        training: Otherwise the likeliest word is taken and no gradient passes.

    Returns:
        float[B, K, D] of the table's dtype and int64[B, K], places in the table.

    Raises:
        ConfigError: If there is no such estimator.
    """
    if estimator not in ESTIMATORS:
        raise ConfigError(f"unknown estimator '{estimator}' of discrete tokens; allowed are {', '.join(ESTIMATORS)}")
    if not training:
        chosen = logits.argmax(-1)
        return table[chosen], chosen
    scores = logits.float()
    if estimator == "gumbel":
        uniform = torch.rand_like(scores).clamp(1e-20, 1 - 1e-7)
        scores = scores - (-uniform.log()).log()
    soft = (scores / temperature).softmax(-1)
    chosen = scores.argmax(-1)
    hard = F.one_hot(chosen, soft.shape[-1]).to(soft)
    weights = hard + soft - soft.detach()
    return (weights @ table.float()).to(table.dtype), chosen
