"""A text-to-image model in training: the family's own denoising loss, with times and noise that follow from a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from vislex.diffusion.objectives import NoiseDraw, ReconstructionObjective
from vislex.diffusion.soft_tokens import TextInputs
from vislex.diffusion.t2i import TextToImage
from vislex.encoders.base import mark_initialized

__all__ = ["TextToImageTraining"]


class TextToImageTraining(PreTrainedModel):
    """What a trainer trains: ``forward`` gives the loss of a batch.

    Args:
        t2i: Model of a family with one text encoder, which is thawed: its denoiser and its text encoder.
        objective: Times, weights of the loss.
    """

    config_class = PreTrainedConfig
    base_model_prefix = ""
    _supports_sdpa = True

    def __init__(self, t2i: TextToImage, objective: ReconstructionObjective) -> None:
        super().__init__(PreTrainedConfig())
        self.t2i = t2i
        self.objective = objective
        self.t2i.requires_grad_(True)
        if t2i.vae is not None:
            t2i.vae.requires_grad_(False)
        self.post_init()

    def init_weights(self) -> None:
        """Keeps the weights of the parts."""
        mark_initialized(self)

    def draw(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        """Times [B] and noise float32 of a batch, by a seed alone: arguments of ``forward``."""
        drawn = self.objective.draw(self.t2i, latents, torch.Generator().manual_seed(seed))
        return {"timesteps": drawn.timesteps, "noise": drawn.noise}

    def forward(
        self, latents: Tensor, input_ids: Tensor, attention_mask: Tensor, timesteps: Tensor, noise: Tensor
    ) -> Tensor:
        """Mean loss of a batch, float32[].

        Args:
            latents: float[B, C, h, w] normalised (pixels in [-1, 1] without autoencoder).
            input_ids: int64[B, L] padded prompts of ``t2i.texts[0]``.
            attention_mask: int64[B, L].
            timesteps: [B] in the scheduler's unit.
            noise: float[B, C, h, w].
        """
        condition = self.t2i.read_texts([TextInputs(input_ids, attention_mask, input_ids.shape[1])])
        draw = NoiseDraw(timesteps, noise.float())
        loss: Tensor = self.objective(self.t2i, latents, condition, draw).loss
        return loss

    def get_input_embeddings(self) -> Any:
        """The word embeddings of the text encoder."""
        return self.t2i.texts[0].model.get_input_embeddings()
