"""Samplers: one step from noise towards data, each token from its own timestep to its own.

diffusers' schedulers step a whole batch from one timestep to the next. Infilling and Back&Refine hold some tokens at
timestep 0 while the others go on, so the three samplers are written here token by token, in the two numbers alpha and
sigma of x_t = alpha x0 + sigma eps; where all timesteps agree they equal diffusers' (a test holds that).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from vislex.diffusion.noise import NoiseSchedule
from vislex.errors import ConfigError, did_you_mean

__all__ = ["DDIM", "SAMPLERS", "DPMSolver", "Renoise", "Sampler", "create_sampler"]


class Sampler(ABC):
    """Steps along a schedule; one object serves one batch, since it may remember the step before.

    Attributes:
        stochastic: Whether ``step`` reads ``noise``.
    """

    stochastic = False
    scheduler = "ddim"  # whose timesteps are taken

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def timesteps(self, num_inference_steps: int) -> list[int]:
        """The timesteps at which the network is asked, from T - 1 down; behind the last one comes the data."""
        return [int(t) for t in self.schedule.scheduler(self.scheduler, num_inference_steps).timesteps]  # type: ignore[arg-type]

    def step(self, x: Tensor, x0: Tensor, timesteps: Tensor, following: Tensor, noise: Tensor | None = None) -> Tensor:
        """One step; tokens whose timestep stays the same are left alone.

        Args:
            x: float32[B, L, D] at ``timesteps``.
            x0: float32[B, L, D], the network's prediction of the data.
            timesteps: int64[B, L].
            following: int64[B, L], not later than ``timesteps``.
            noise: float32[B, L, D], fresh, for a stochastic sampler.

        Returns:
            float32[B, L, D] at ``following``.
        """
        moved = self._step(x, x0, timesteps, following, noise)
        return torch.where((timesteps == following)[..., None], x, moved)

    @abstractmethod
    def _step(self, x: Tensor, x0: Tensor, timesteps: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        """``step`` for tokens that move; what it gives for others is not used."""

    def select(self, rows: Tensor) -> None:
        """Goes on with the captions ``rows`` int64[R] of the batch only."""
        return


class Renoise(Sampler):
    """The reference sampler of LaDiC and Analog Bits: the prediction, noised afresh to the following timestep.

    It prefers what is likely, the more so the more steps it takes: a prediction is a mean over what the data may be,
    and noised anew it is less spread than noised data. The solvers below keep the distribution.
    """

    stochastic = True

    def _step(self, x: Tensor, x0: Tensor, timesteps: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            raise ConfigError("the sampler 'renoise' needs fresh noise at every step; pass noise=")
        return self.schedule.add_noise(x0, noise, following)


class DDIM(Sampler):
    """DDIM with eta = 0 (arXiv 2010.02502, equation 12)."""

    def _step(self, x: Tensor, x0: Tensor, timesteps: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(timesteps)
        next_alpha, next_sigma = self.schedule.alpha_sigma(following)
        predicted: Tensor = (x - alpha * x0) / sigma
        return next_alpha * x0 + next_sigma * predicted


@dataclass
class _Before:
    """The step before: the prediction float32[B, L, D] and its timesteps int64[B, L]."""

    x0: Tensor
    timesteps: Tensor


class DPMSolver(Sampler):
    """DPM-Solver++(2M), midpoint (arXiv 2211.01095, algorithm 2).

    A token takes the first-order step where it has come from no noisier timestep (at the beginning, and when its time
    was set back) and where the step ends at clean data.
    """

    scheduler = "dpmsolver++"

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self._before: _Before | None = None

    def _step(self, x: Tensor, x0: Tensor, timesteps: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        _, sigma = self.schedule.alpha_sigma(timesteps)
        next_alpha, next_sigma = self.schedule.alpha_sigma(following)
        now, then = (self._half_log_snr(t) for t in (timesteps, following))
        direction = x0
        if self._before is not None:
            last = self._half_log_snr(self._before.timesteps)
            has_past = (self._before.timesteps > timesteps) & (following > 0)
            ratio = torch.where(has_past[..., None], (then - now) / (now - last), 0.0)  # 1 / r0
            direction = x0 + 0.5 * ratio * (x0 - self._before.x0)
        self._before = _Before(x0, timesteps)
        return next_sigma / sigma * x - next_alpha * torch.expm1(now - then) * direction

    def _half_log_snr(self, timesteps: Tensor) -> Tensor:
        """lambda of the paper, float32[B, L, 1]."""
        return self.schedule.log_snr(timesteps)[..., None] / 2

    def select(self, rows: Tensor) -> None:
        if self._before is not None:
            self._before = _Before(self._before.x0[rows], self._before.timesteps[rows])


SAMPLERS: dict[str, type[Sampler]] = {"renoise": Renoise, "ddim": DDIM, "dpmsolver++": DPMSolver}


def create_sampler(name: str, schedule: NoiseSchedule) -> Sampler:
    """Builds a sampler.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{name}'{did_you_mean(name, SAMPLERS)} Known: {', '.join(SAMPLERS)}")
    return SAMPLERS[name](schedule)
