"""What a noised latent says by itself: which word pieces it may have been, and what is left of it in expectation.

The latents of a word piece lie around their mean: x0 ~ sum_v pi_v N(mu_v, diag(s^2)). Seen through noise,
x_t = alpha x0 + sigma eps, the posterior of the piece and the mean of x0 have closed forms. A denoiser that starts from
them has to learn only what the image and the other words add: pi_v. Without them a denoiser narrower than the latents
loses most of what a noised latent says before its first layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mixture_mean", "token_evidence"]


def token_evidence(x: Tensor, alpha: Tensor, sigma: Tensor, means: Tensor, variance: Tensor) -> Tensor:
    """Log-likelihood of a noised latent under each word piece, up to a constant of the latent.

    Args:
        x: float32[B, L, D].
        alpha: float32[B, L, 1], factor of the signal.
        sigma: float32[B, L, 1], factor of the noise.
        means: float32[V, D], mean latent of each piece.
        variance: float32[D], of latents around the mean of their piece.

    Returns:
        float32[B, L, V].
    """
    precision = 1 / (alpha**2 * variance + sigma**2)  # [B, L, D]
    return (alpha * x * precision) @ means.T - 0.5 * (alpha**2 * precision) @ (means**2).T


def mixture_mean(x: Tensor, alpha: Tensor, sigma: Tensor, means: Tensor, variance: Tensor, posterior: Tensor) -> Tensor:
    """Mean of x0 given x_t, float32[B, L, D]; arguments as above, ``posterior`` float32[B, L, V] of the pieces."""
    share = alpha**2 * variance / (alpha**2 * variance + sigma**2)  # of what x_t says of x0 around its piece's mean
    mean = torch.where(share < 1, (1 - share) * (posterior @ means), 0.0)
    return mean + share * x / alpha.clamp(min=1e-8)
