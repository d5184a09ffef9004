"""``NoiseProcess``: how a text-to-image model was noised, and what its network predicts.

Variance preserving: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, with integer timesteps 0 ... T - 1; the network
predicts eps ("epsilon"), sqrt(abar_t) eps - sqrt(1 - abar_t) x0 ("v_prediction") or x0 ("sample").
Rectified flow: x_t = (1 - s) x0 + s eps with s in (0, 1); the network predicts eps - x0 ("flow"); its timestep is T s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vislex.errors import ConfigError

__all__ = ["DENSITIES", "VP_PREDICTIONS", "WEIGHTINGS", "NoiseProcess"]

VP_PREDICTIONS = ("epsilon", "v_prediction", "sample")
DENSITIES = ("uniform", "logit_normal")
WEIGHTINGS = ("native", "epsilon", "v", "sample", "min_snr")

Weighting = Literal["native", "epsilon", "v", "sample", "min_snr"]
Density = Literal["uniform", "logit_normal"]


@dataclass(frozen=True, eq=False)
class NoiseProcess:
    """Signal and noise at a timestep, training targets, and the conversion between predictions.

    Attributes:
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        num_train_timesteps: T.
        alphas_cumprod: float32[T] of a variance-preserving process; None for a flow.
        shift: Of a flow: times are drawn as shift u / (1 + (shift - 1) u), as its scheduler spaces its steps.
    """

    prediction_type: str
    num_train_timesteps: int = 1000
    alphas_cumprod: Tensor | None = None
    shift: float = 1.0
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def from_scheduler(cls, scheduler: Any, allowed: Sequence[str] = (*VP_PREDICTIONS, "flow")) -> NoiseProcess:
        """Reads a scheduler of diffusers.

        Raises:
            ConfigError: If it stands for another process, or its prediction type is not among ``allowed``.
        """
        config = scheduler.config
        name = type(scheduler).__name__
        if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or is_flow(config.get("prediction_type")):
            found = "flow"
        else:
            found = config.get("prediction_type") or "epsilon"
        if found not in allowed:
            raise ConfigError(
                f"{name} has the prediction type '{found}'; this family is trained with {' or '.join(allowed)}; "
                "set prediction_type in scheduler_config.json to what the denoiser was trained for"
            )
        steps = int(config.get("num_train_timesteps", 1000))
        if found == "flow":
            dynamic = config.get("use_dynamic_shifting", False)
            shift = 1.0 if dynamic else config.get("shift", config.get("flow_shift")) or 1.0
            return cls("flow", steps, shift=float(shift))
        if not isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor):
            raise ConfigError(f"{name} has no alphas_cumprod: its noise process is not variance preserving")
        return cls(found, steps, scheduler.alphas_cumprod.detach().float().cpu())

    @property
    def is_flow(self) -> bool:
        return self.prediction_type == "flow"

    def draw_times(
        self,
        count: int,
        *,
        density: Density = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Timesteps in the scheduler's unit: int64[count], or of a flow float32[count] in (0, T].

        They are drawn on the generator's device, so that a seed gives the same everywhere.
        """
        from diffusers.training_utils import compute_density_for_timestep_sampling

        if density not in DENSITIES:
            raise ConfigError(f"unknown density '{density}' of timesteps; allowed are {', '.join(DENSITIES)}")
        drawn = compute_density_for_timestep_sampling(
            density,
            count,
            logit_mean=logit_mean,
            logit_std=logit_std,
            device=device if generator is None else generator.device,
            generator=generator,
        ).to(device)
        steps = self.num_train_timesteps
        if not self.is_flow:
            return (drawn * steps).long().clamp(max=steps - 1)
        drawn = drawn.float().clamp(1e-4, 1.0)
        return steps * self.shift * drawn / (1 + (self.shift - 1) * drawn)

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise, float32[B, 1, 1, 1] each."""
        if self.is_flow:
            sigma = timesteps.float() / self.num_train_timesteps
            alpha = 1 - sigma
        else:
            abar = self._on(timesteps.device)[timesteps.long()]
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        return alpha[:, None, None, None], sigma[:, None, None, None]

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of ``clean`` and ``noise`` float[B, C, H, W]."""
        alpha, sigma = self.alpha_sigma(timesteps)
        noisy: Tensor = alpha * clean + sigma * noise
        return noisy

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict, float[B, C, H, W]."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        if self.is_flow:
            return noise - clean
        alpha, sigma = self.alpha_sigma(timesteps)
        velocity: Tensor = alpha * noise - sigma * clean
        return velocity

    def to_clean(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The x0 that a prediction means, float[B, C, H, W]."""
        alpha, sigma = self.alpha_sigma(timesteps)
        if self.prediction_type == "epsilon":
            clean: Tensor = (noisy - sigma * prediction) / alpha
        elif self.prediction_type == "v_prediction":
            clean = alpha * noisy - sigma * prediction
        elif self.is_flow:
            clean = noisy - sigma * prediction
        else:
            clean = prediction
        return clean

    def weight(
        self, timesteps: Tensor, weighting: Weighting = "native", *, min_snr_gamma: float = 5.0, min_sigma: float = 0.05
    ) -> Tensor:
        """Factor of the squared error of the network's own prediction, float32[B].

        Args:
            timesteps: [B].
            weighting: "native" is 1. The others weigh the error of x0, as if the network predicted something else:
                "sample" by 1, "epsilon" by the signal-to-noise ratio, "v" by 1 / sigma^2 (v of a variance-preserving
                process and the velocity of a flow alike), "min_snr" by min(SNR, gamma) (arXiv 2303.09556).
            min_snr_gamma: gamma.
            min_sigma: Smallest sigma (or alpha) that is divided by: close to the data a network that predicts x0 cannot
                be as exact as its weight would ask for.
        """
        if weighting not in WEIGHTINGS:
            raise ConfigError(f"unknown weighting '{weighting}'; allowed are {', '.join(WEIGHTINGS)}")
        own = {"epsilon": "epsilon", "sample": "sample"}.get(self.prediction_type, "v")
        if weighting in ("native", own):
            return torch.ones(len(timesteps), device=timesteps.device)
        alpha, sigma = (factor.flatten() for factor in self.alpha_sigma(timesteps))
        floor = sigma.clamp(min=min_sigma)
        snr = (alpha / floor) ** 2
        of_clean = {
            "sample": torch.ones_like(snr),
            "epsilon": snr,
            "v": floor**-2,
            "min_snr": snr.clamp(max=min_snr_gamma),
        }[weighting]
        # Squared error of x0 for one unit of squared error of the prediction.
        if self.prediction_type == "sample":
            return of_clean
        if self.prediction_type == "epsilon":
            return of_clean * (sigma / alpha.clamp(min=min_sigma)) ** 2
        return of_clean * sigma**2

    def _on(self, device: torch.device) -> Tensor:
        if self.alphas_cumprod is None:
            raise ConfigError(f"a noise process of '{self.prediction_type}' needs alphas_cumprod")
        if device not in self._tables:
            self._tables[device] = self.alphas_cumprod.to(device)
        return self._tables[device]


def is_flow(prediction_type: str | None) -> bool:
    """Whether a scheduler's prediction type means the velocity of a flow."""
    return prediction_type in ("flow", "flow_prediction")
