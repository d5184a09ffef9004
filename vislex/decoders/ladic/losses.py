"""Random draws and losses of LaDiC's training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vislex.diffusion.noise import NoiseSchedule

__all__ = ["Draw", "cross_entropy", "draw", "latent_loss"]


@dataclass
class Draw:
    """What is drawn at random for a batch.

    Attributes:
        timesteps: int64[B] in [1, T).
        skew: float32[B], by how much the first words are ahead of the last ones (``token_times``).
        noise: float32[B, L, D].
        dropped: bool[B], captions that do not see their image.
        kept: bool[B, L], words that are shown clean.
        by_token: bool[B], captions whose clean words are shown as the mean latent of their piece, not as their own.
        shows_prediction: Whether the batch is shown a first prediction.
    """

    timesteps: Tensor
    skew: Tensor
    noise: Tensor
    dropped: Tensor
    kept: Tensor
    by_token: Tensor
    shows_prediction: bool


def draw(
    shape: tuple[int, int, int],
    num_train_timesteps: int,
    *,
    drop_image: float,
    keep_words: float,
    self_conditioning: float,
    time_skew: float = 0.0,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Draw:
    """Draws for a batch of B captions of L latents of width D; the timesteps are spread evenly over it."""
    batch, length, _ = shape

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator).to(device)

    places = (torch.randperm(batch, generator=generator).to(device) + uniform(batch)) / batch
    keeps = uniform(batch) < keep_words
    share = uniform(batch, 1)
    return Draw(
        timesteps=1 + (places * (num_train_timesteps - 1)).long().clamp(max=num_train_timesteps - 2),
        skew=time_skew * uniform(batch) if time_skew else torch.zeros(batch, device=device),
        noise=torch.randn(shape, generator=generator).to(device),
        dropped=uniform(batch) < drop_image,
        kept=(uniform(batch, length) < share) & keeps[:, None],
        by_token=uniform(batch) < 0.5,
        shows_prediction=bool(uniform(1) < self_conditioning),
    )


def latent_loss(
    prediction: Tensor,
    x0: Tensor,
    counts: Tensor,
    timesteps: Tensor,
    schedule: NoiseSchedule,
    *,
    kind: str = "l2",
    min_snr_gamma: float | None = None,
) -> Tensor:
    """Loss of a prediction of x0, float[].

    Args:
        prediction: float[B, L, D].
        x0: float[B, L, D].
        counts: bool[B, L], latents that count.
        timesteps: int64[B, L].
        schedule: For the signal-to-noise ratio.
        kind: "l2", the mean over tokens of the un-squared norm (LaDiC, equation 4), or "mse".
        min_snr_gamma: Weighs latents by min(SNR, gamma), scaled to a mean of 1 over the batch.
    """
    error = prediction.float() - x0.float()
    each = error.norm(dim=-1) if kind == "l2" else error.square().mean(-1)  # [B, L]
    weights = counts.float()
    if min_snr_gamma is not None:
        snr = schedule.log_snr(timesteps).exp().clamp(max=min_snr_gamma)
        weights = weights * snr * (weights.sum() / (snr * weights).sum().clamp(min=1e-12))
    return (each * weights).sum() / counts.sum().clamp(min=1)


def cross_entropy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Mean over the latents that count, of logits float[B, L, V] and targets int64[B, L]."""
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (each * counts.flatten()).sum() / counts.sum().clamp(min=1)
