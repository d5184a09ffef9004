"""``NoiseSchedule``: how much signal and noise a token holds at each timestep, on the betas of diffusers.

A noise factor F scales the noise: x_t = sqrt(abar) x0 + F sqrt(1 - abar) eps. Divided by its own scale
s_t = sqrt(abar + F^2 (1 - abar)) this is a variance-preserving process again, with abar' = abar / s_t^2: the log-SNR
moves by -2 ln F, and every solver of diffusers stays valid.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vislex.errors import ConfigError, did_you_mean

__all__ = ["BETAS", "NoiseSchedule"]

BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # ours -> diffusers' beta_schedule
LOGISTIC = "logistic"


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Signal and noise at timesteps 0 ... T - 1.

    It holds no parameters and no buffers (a model that is built on the meta device would lose them): tables are made
    on each device when first asked for.

    Attributes:
        alphas_cumprod: float64[T], abar at noise factor 1, falling.
        noise_factor: F above; 1 is the plain schedule.
        variance_preserving: True divides x_t by s_t (the log-SNR shift), False keeps the raw form.
        time_shift: Timesteps by which the network is told more than the truth while sampling (asymmetric time
            intervals of arXiv 2208.04202; 5 in the released LaDiC).
    """

    alphas_cumprod: np.ndarray
    noise_factor: float = 1.0
    variance_preserving: bool = True
    time_shift: int = 0
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        abar = np.asarray(self.alphas_cumprod, dtype=np.float64)
        object.__setattr__(self, "alphas_cumprod", abar)
        problems = []
        if abar.ndim != 1 or len(abar) < 2 or not (np.diff(abar) < 0).all() or abar[0] > 1 or abar[-1] <= 0:
            problems.append("alphas_cumprod must fall from at most 1 to above 0 over at least two timesteps")
        if not self.noise_factor > 0:
            problems.append(f"noise_factor {self.noise_factor} must be above 0")
        if self.time_shift < 0:
            problems.append(f"time_shift {self.time_shift} must not be negative")
        if problems:
            raise ConfigError("invalid noise schedule: " + "; ".join(problems))

    @classmethod
    def create(
        cls,
        *,
        num_train_timesteps: int = 1000,
        schedule: Literal["linear", "cosine", "logistic"] = "linear",
        log_snr: tuple[float, float] | None = None,
        noise_factor: float = 1.0,
        variance_preserving: bool = True,
        time_shift: int = 0,
    ) -> NoiseSchedule:
        """Builds a schedule in which timestep 0 is clean data: the betas of diffusers behind a leading 0.

        Args:
            num_train_timesteps: T.
            schedule: "linear" (1e-4 to 0.02), "cosine" (s = 0.008), or "logistic": time as the share of what is
                hidden, which is a logistic function of the log-SNR (time warping of arXiv 2211.15089, section 3.3).
            log_snr: Median and scale of the logistic function.
            noise_factor: F; training and sampling must agree on it unless the quirk of the release is wanted.
            variance_preserving: Whether x_t is divided by its scale.
            time_shift: See the class.
        """
        from diffusers import DDPMScheduler

        if schedule == LOGISTIC:
            if log_snr is None or not log_snr[1] > 0:
                raise ConfigError(f"schedule 'logistic' needs log_snr=(median, scale above 0), not {log_snr}")
            share = np.arange(1, num_train_timesteps) / num_train_timesteps
            log_ratio = log_snr[0] - log_snr[1] * np.log(share / (1 - share))
            abar = np.concatenate([[1.0], 1 / (1 + np.exp(-log_ratio))])
            return cls(abar, noise_factor, variance_preserving, time_shift)
        if schedule not in BETAS:
            known = [*BETAS, LOGISTIC]
            raise ConfigError(
                f"unknown noise schedule '{schedule}'{did_you_mean(schedule, known)} Known: {', '.join(known)}"
            )
        with torch.device("cpu"):
            betas = DDPMScheduler(num_train_timesteps=num_train_timesteps, beta_schedule=BETAS[schedule]).betas
        # float32 betas carry no more than seven digits, but their product over T steps should not lose more.
        abar = np.cumprod(1 - np.concatenate([[0.0], betas.double().numpy()[:-1]]))
        return cls(abar, noise_factor, variance_preserving, time_shift)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that sampling starts from."""
        return 1.0 if self.variance_preserving else self.noise_factor

    @property
    def shifted_alphas_cumprod(self) -> np.ndarray:
        """float64[T], abar' of the variance-preserving form."""
        signal = self.alphas_cumprod
        shifted: np.ndarray = signal / (signal + self.noise_factor**2 * (1 - signal))
        return shifted

    def with_noise_factor(self, noise_factor: float) -> NoiseSchedule:
        """The same schedule with another F (the release trains with 4 and samples with 1)."""
        return dataclasses.replace(self, noise_factor=noise_factor, _tables={})

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise: x_t = alpha x0 + sigma eps.

        Args:
            timesteps: int64[...].

        Returns:
            Two float32[..., 1].
        """
        alpha, sigma = self._on(timesteps.device)
        return alpha[timesteps][..., None], sigma[timesteps][..., None]

    def log_snr(self, timesteps: Tensor) -> Tensor:
        """ln(alpha^2 / sigma^2), float32[...]; infinite where the data is clean."""
        alpha, sigma = self.alpha_sigma(timesteps)
        ratio: Tensor = 2 * (alpha.log() - sigma.log())
        return ratio[..., 0]

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised tokens.

        Args:
            x0: float[B, L, D].
            noise: float[B, L, D], standard normal.
            timesteps: int64[B], or int64[B, L] for a time of each token.

        Returns:
            float[B, L, D] of x0's dtype.
        """
        alpha, sigma = self.alpha_sigma(timesteps if timesteps.ndim == 2 else timesteps[:, None])
        noised: Tensor = (alpha * x0 + sigma * noise).to(x0.dtype)
        return noised

    def told(self, timesteps: Tensor) -> Tensor:
        """What the network is told while sampling: min(T - 1, t + ``time_shift``), and the truth where t is 0."""
        later = (timesteps + self.time_shift).clamp(max=self.num_train_timesteps - 1)
        return torch.where(timesteps > 0, later, timesteps)

    def scheduler(self, name: Literal["ddim", "dpmsolver++"], num_inference_steps: int) -> Any:
        """The stock diffusers scheduler on the shifted betas, predicting x0, with its timesteps set.

        Its samples are those of the variance-preserving form. DDIM's timesteps are "trailing", DPM-Solver's
        "linspace", whose steps never hold timestep 0, where the log-SNR is infinite.

        Raises:
            ConfigError: If diffusers has no such scheduler here, or the number of steps does not fit.
        """
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

        if not 1 <= num_inference_steps < self.num_train_timesteps:
            raise ConfigError(
                f"num_inference_steps {num_inference_steps} must be between 1 and {self.num_train_timesteps - 1}"
            )
        shifted = self.shifted_alphas_cumprod
        betas = 1 - shifted / np.concatenate([[1.0], shifted[:-1]])
        shared = {"trained_betas": betas, "num_train_timesteps": len(betas), "prediction_type": "sample"}
        with torch.device("cpu"), np.errstate(divide="ignore"):
            if name == "ddim":
                scheduler: Any = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **shared)
            elif name == "dpmsolver++":
                scheduler = DPMSolverMultistepScheduler(timestep_spacing="linspace", **shared)
            else:
                raise ConfigError(f"no diffusers scheduler is known as '{name}'; allowed are ddim and dpmsolver++")
            scheduler.set_timesteps(num_inference_steps)
        return scheduler

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            signal, noise = self.alphas_cumprod, self.noise_factor**2 * (1 - self.alphas_cumprod)
            power = signal + noise if self.variance_preserving else np.ones_like(signal)
            alpha, sigma = (torch.from_numpy(np.sqrt(part / power)).float().to(device) for part in (signal, noise))
            self._tables[device] = (alpha, sigma)
        return self._tables[device]
