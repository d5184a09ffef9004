"""An autoencoder in training: its loss, and the norm that is folded into its encoder."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional as F

from vislex.training.autoencoder import AutoencoderTraining


@pytest.fixture
def model() -> AutoencoderTraining:
    torch.manual_seed(0)
    return AutoencoderTraining(
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(0, 1),
            num_decoder_blocks=(1, 0),
            latent_channels=4,
        )
    )


def test_the_loss_is_of_the_decoded_normalised_latents_with_their_noise(model: AutoencoderTraining) -> None:
    pixels, noise = torch.rand(6, 3, 16, 16) * 2 - 1, torch.randn(6, 4, 8, 8) / 5
    latents = model.vae.encode(pixels).latents
    mean, variance = latents.mean((0, 2, 3), keepdim=True), latents.var((0, 2, 3), keepdim=True, correction=0)
    decoded = model.vae.decode((latents - mean) / (variance + 1e-5).sqrt() + noise).sample
    expected = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels)
    torch.testing.assert_close(model(pixels, noise), expected)
    assert model(pixels, torch.zeros_like(noise)) != model(pixels, noise)
    assert not torch.equal(model.norm.running_mean, torch.zeros(4))
    model(pixels, noise).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.vae.encoder.layers[0].parameters())


def test_folding_gives_an_ordinary_autoencoder_with_the_latents_that_the_decoder_knows(
    model: AutoencoderTraining,
) -> None:
    pixels = torch.rand(6, 3, 16, 16) * 2 - 1
    model.vae.encoder.layers[-1].weight.data.mul_(100)  # a fresh encoder's latents are so small that eps counts
    model.norm.momentum = 1.0
    model(pixels, torch.zeros(1, 1, 1, 1))
    model.eval()
    expected = model.norm(model.vae.encode(pixels).latents)
    vae = model.fold()
    torch.testing.assert_close(vae.encode(pixels).latents, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(expected.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    assert not [module for module in vae.modules() if isinstance(module, nn.BatchNorm2d)]
