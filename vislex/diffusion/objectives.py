"""``ReconstructionObjective``: the denoising loss of any text-to-image family, for ViLex and for plain training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vislex.diffusion.process import Density, Weighting
from vislex.diffusion.t2i.base import Condition, TextToImage
from vislex.errors import SpecError

__all__ = ["NoiseDraw", "ObjectiveOutput", "ReconstructionObjective"]


@dataclass(frozen=True)
class NoiseDraw:
    """A time and a noise for each image; handed in again, two models are judged on the same.

    Attributes:
        timesteps: [B] in the scheduler's unit.
        noise: float32[B, C, h, w].
    """

    timesteps: Tensor
    noise: Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss of a batch.

    Attributes:
        loss: float32[], mean over the batch.
        per_image: float32[B], mean over an image's elements, weighted.
        prediction: float[B, C, h, w] of the denoiser.
        draw: What was drawn.
    """

    loss: Tensor
    per_image: Tensor
    prediction: Tensor
    draw: NoiseDraw


@dataclass(frozen=True)
class ReconstructionObjective:
    """E || target - network(x_t, t, condition) ||^2 with the family's own noise, target and time.

    Attributes:
        density: How times are drawn, "uniform" or "logit_normal"; None takes the family's ("logit_normal" for flows).
        logit_mean: Mean of the logit of t / T; above 0 prefers noisy times.
        logit_std: Its standard deviation.
        weighting: See ``NoiseProcess.weight``; "v" trains a network that predicts x0 with the weights of v.
        min_snr_gamma: See there.
        min_sigma: See there.
    """

    density: Density | None = None
    logit_mean: float = 0.0
    logit_std: float = 1.0
    weighting: Weighting = "native"
    min_snr_gamma: float = 5.0
    min_sigma: float = 0.05

    def draw(self, t2i: TextToImage, latents: Tensor, generator: torch.Generator | None = None) -> NoiseDraw:
        """Draws times and noise for latents float[B, C, h, w]; a generator draws on its own device."""
        timesteps = t2i.process.draw_times(
            len(latents),
            density=self.density or t2i.default_density,  # type: ignore[arg-type]
            logit_mean=self.logit_mean,
            logit_std=self.logit_std,
            device=latents.device,
            generator=generator,
        )
        where = latents.device if generator is None else generator.device
        noise = torch.randn(latents.shape, generator=generator, device=where, dtype=torch.float32)
        return NoiseDraw(timesteps, noise.to(latents.device))

    def __call__(
        self,
        t2i: TextToImage,
        latents: Tensor,
        condition: Condition,
        draw: NoiseDraw | None = None,
        generator: torch.Generator | None = None,
    ) -> ObjectiveOutput:
        """Computes the loss; noise, target and error in float32, the network in its own dtype.

        Args:
            t2i: The text-to-image model, frozen or in training.
            latents: float[B, C, h, w], normalised (``t2i.encode_pixels``); pixels in [-1, 1] without autoencoder.
            condition: B rows.
            draw: Times and noise; None draws them.
            generator: For the drawing.

        Raises:
            SpecError: If there are not as many conditions as images.
        """
        if len(condition) != len(latents):
            raise SpecError(f"{len(condition)} conditions for {len(latents)} images")
        draw = self.draw(t2i, latents, generator) if draw is None else draw
        clean = latents.float()
        noisy = t2i.process.add_noise(clean, draw.noise, draw.timesteps)
        prediction = t2i.predict(noisy, draw.timesteps, condition)
        target = t2i.process.target(clean, draw.noise, draw.timesteps)
        error = (prediction.float() - target).square().flatten(1).mean(1)
        weights = t2i.process.weight(
            draw.timesteps, self.weighting, min_snr_gamma=self.min_snr_gamma, min_sigma=self.min_sigma
        )
        per_image = weights * error
        return ObjectiveOutput(per_image.mean(), per_image, prediction, draw)
