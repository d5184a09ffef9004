"""Timesteps of the tokens of one sequence where the first ones are denoised before the last ones.

All tokens at once must agree on everything at the same moment: which object is named where, and in which words. A skew
lets them decide one after the other, with the words before them nearly settled, while all are still denoised together
(AR-Diffusion, arXiv 2305.09515, section 3.1, moves in the same way along a line).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["token_times"]


def token_times(timesteps: Tensor, length: int, skew: Tensor | float, num_train_timesteps: int) -> Tensor:
    """The timestep of each token at a moment of the whole sequence.

    At the beginning all tokens are pure noise, at the end all are clean. In between a token at the share p of the
    sequence (0 the first, 1 the last) is at the share (1 + s) u - s (1 - p) of the time, cut to [0, 1], where the
    sequence is at u: about 1 / s of the tokens are then on their way. A skew s of 0 gives all the same time.

    Args:
        timesteps: int64[B], moments of the sequence in [0, T).
        length: L.
        skew: float[B], or one for all: at least 0.
        num_train_timesteps: T.

    Returns:
        int64[B, L].
    """
    last = num_train_timesteps - 1
    place = torch.linspace(0, 1, length, device=timesteps.device) if length > 1 else timesteps.new_ones(1).float()
    skew = torch.as_tensor(skew, dtype=torch.float32, device=timesteps.device).expand(len(timesteps))[:, None]
    moments = timesteps[:, None].float() / last
    return (((1 + skew) * moments - skew * (1 - place)) * last).round().long().clamp(0, last)
