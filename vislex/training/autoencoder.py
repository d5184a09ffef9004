"""An autoencoder in training: latents of equal scale by construction, and a decoder that bears errors in them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vislex.encoders.base import mark_initialized

__all__ = ["AutoencoderTraining"]


class AutoencoderTraining(PreTrainedModel):
    """What a trainer trains: ``forward`` gives the loss of a batch.

    Between the halves of the autoencoder stand a batch norm without scale and shift and some noise: the encoder cannot
    escape the noise by larger latents, and small errors of a diffusion model become harmless. ``fold`` writes the norm
    into the encoder, which leaves an ordinary autoencoder.

    Args:
        vae: The autoencoder, with random weights.
    """

    config_class = PreTrainedConfig
    base_model_prefix = ""

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__(PreTrainedConfig())
        self.vae = vae.to(memory_format=torch.channels_last)  # a third faster on a CPU
        self.norm = nn.BatchNorm2d(vae.config["latent_channels"], affine=False, momentum=0.02)
        self.post_init()

    def init_weights(self) -> None:
        """Keeps the weights of the parts."""
        mark_initialized(self)

    def get_input_embeddings(self) -> nn.Module | None:
        """None: pixels have no embedding table."""
        return None

    def forward(self, pixel_values: Tensor, noise: Tensor) -> Tensor:
        """Absolute plus squared error of the pixels, float32[].

        Args:
            pixel_values: float[B, 3, H, W] in [-1, 1].
            noise: float[B, C, h, w], added to the normalised latents.
        """
        pixels = pixel_values.contiguous(memory_format=torch.channels_last)
        latents = self.norm(self.vae.encode(pixels).latents)
        error = self.vae.decode(latents + noise).sample.float() - pixel_values.float()
        return error.abs().mean() + error.square().mean()

    @torch.no_grad()
    def fold(self) -> AutoencoderTiny:
        """The autoencoder, which from now on gives the latents that its decoder has learned from."""
        last, mean = self.vae.encoder.layers[-1], self.norm.running_mean
        std = (self.norm.running_var + self.norm.eps).sqrt()
        last.weight.div_(std[:, None, None, None])
        last.bias.sub_(mean).div_(std)
        return self.vae
