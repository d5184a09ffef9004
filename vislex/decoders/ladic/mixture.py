"""What a noised latent says by itself: which word pieces it may have been, and what is left of it in expectation.

The latents of a word piece lie around their mean: x0 ~ sum_v pi_v N(mu_v, diag(s^2)). Seen through noise,
x_t = alpha x0 + sigma eps, the posterior of the piece and the mean of x0 have closed forms. A denoiser that starts from
them has to learn only what the image and the other words add: pi_v. Without them a denoiser narrower than the latents
loses most of what a noised latent says before its first layer.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["TokenMixture"]


class TokenMixture:
    """The mixture of the word pieces' latents; what does not depend on a latent is computed once.

    Args:
        means: float[V, D], mean latent of each piece.
        variance: float[D], of latents around the mean of their piece.
        log_prior: float[V], logarithm of each piece's frequency, up to a constant.
    """

    def __init__(self, means: Tensor, variance: Tensor, log_prior: Tensor) -> None:
        self.means, self.variance, self.log_prior = (value.detach().float() for value in (means, variance, log_prior))
        self._squares = self.means.square()

    def evidence(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Log-probability of each word piece given a noised latent, up to a constant of the latent.

        Args:
            x: float32[B, L, D].
            alpha: float32[B, L, 1], factor of the signal.
            sigma: float32[B, L, 1], factor of the noise.

        Returns:
            float32[B, L, V].
        """
        precision = 1 / (alpha**2 * self.variance + sigma**2)  # [B, L, D]
        # The second term knows the time only, of which a batch has few.
        signals, which = alpha.flatten().unique(return_inverse=True)
        noises = torch.empty_like(signals)
        noises[which] = sigma.flatten()
        signals, noises = signals[:, None] ** 2, noises[:, None] ** 2
        energies = (signals / (signals * self.variance + noises)) @ self._squares.T  # [times, V]
        constant = self.log_prior - 0.5 * energies
        return (alpha * x * precision) @ self.means.T + constant[which].view(*x.shape[:2], -1)

    def mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, posterior: Tensor) -> Tensor:
        """Mean of x0 given x_t, float32[B, L, D]; arguments as above, ``posterior`` float32[B, L, V] of the pieces."""
        signal = alpha**2 * self.variance
        share = signal / (signal + sigma**2)  # of what x_t says of x0 around its piece's mean
        mean = torch.where(share < 1, (1 - share) * (posterior @ self.means), 0.0)
        return mean + share * x / alpha.clamp(min=1e-8)

    def hidden_share(self, *, n_samples: int = 256) -> tuple[float, float]:
        """At which noise the word pieces hide: a logistic function of the log-SNR, fitted to the posterior's entropy.

        Args:
            n_samples: Latents that are drawn, always the same ones.

        Returns:
            The log-SNR at which half of the entropy is left, and the scale of the logistic function that also meets the
            points at which a tenth and nine tenths are.
        """
        generator = torch.Generator().manual_seed(0)
        own = TokenMixture(self.means.cpu(), self.variance.cpu(), self.log_prior.cpu())
        pieces = torch.multinomial(own.log_prior.softmax(-1), n_samples, replacement=True, generator=generator)
        noise = torch.randn(2, n_samples, own.means.shape[1], generator=generator)
        x0 = own.means[pieces] + own.variance.sqrt() * noise[0]
        log_snr = torch.arange(-16.0, 8.5, 0.5)
        entropy = []
        for value in log_snr:
            alpha, sigma = (part.sqrt().expand(1, n_samples, 1) for part in (value.sigmoid(), (-value).sigmoid()))
            evidence = own.evidence(alpha * x0 + sigma * noise[1], alpha, sigma)
            entropy.append(torch.distributions.Categorical(logits=evidence).entropy().mean())
        hidden = torch.stack(entropy) / torch.distributions.Categorical(logits=own.log_prior).entropy()
        tenth, half, most = np.interp([0.1, 0.5, 0.9], hidden.flip(0), log_snr.flip(0)).tolist()
        return half, (tenth - most) / (2 * math.log(9))
