"""FLUX.1: T5 states, the pooled vector of a CLIP, latents in packs of 2 x 2; a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vislex.diffusion.soft_tokens import ClipReader, EmbedsReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["Flux"]


class Flux(TextToImage):
    """FLUX.1 dev and schnell: T5 without a mask, CLIP's pooled state without projection, time in [0, 1].

    Attributes:
        embedded_guidance: Guidance that the distilled model (dev) is told as a number; the pipeline's default.
    """

    pipelines = ("FluxPipeline",)
    parts = {  # noqa: RUF012
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": (),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer_2": (),
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
    }
    predictions = ("flow",)
    default_density = "logit_normal"
    guidance_argument = "true_cfg_scale"
    default_guidance = 1.0
    embedded_guidance = 3.5
    target_channels = None  # its output is a sequence of packs, without a variance

    def make_readers(self) -> list[TextReader]:
        clip, t5 = self.tokenizers["tokenizer"], self.tokenizers["tokenizer_2"]
        return [
            ClipReader(self.text_encoder, clip, max_length=clip.model_max_length),
            EmbedsReader(self.text_encoder_2, t5, max_length=min(self.max_length or 512, t5.model_max_length)),
        ]

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        pooled = self.texts[0].read(inputs[0]).pooler_output
        return Condition(self.texts[1].read(inputs[1]).last_hidden_state, pooled_prompt_embeds=pooled)

    def condition_arguments(self, condition: Condition) -> dict[str, Any]:
        length = condition.prompt_embeds.shape[1]
        return {
            "encoder_hidden_states": condition.prompt_embeds,
            "pooled_projections": condition.pooled_prompt_embeds,
            "txt_ids": condition.prompt_embeds.new_zeros(length, 3),
        }

    def extra_arguments(self, noisy: Tensor) -> dict[str, Any]:
        rows, columns = noisy.shape[-2] // 2, noisy.shape[-1] // 2
        places = noisy.new_zeros(rows, columns, 3)
        places[..., 1] = torch.arange(rows, device=noisy.device)[:, None]
        places[..., 2] = torch.arange(columns, device=noisy.device)[None]
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((len(noisy),), self.embedded_guidance, device=noisy.device)
        return {"img_ids": places.flatten(0, 1), "guidance": guidance}

    def network_time(self, timesteps: Tensor) -> Tensor:
        return timesteps.to(self.dtype) / 1000

    def pack(self, latents: Tensor) -> Tensor:
        return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)  # [B, h/2 * w/2, 4 C]

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        grid = (latents.shape[-2] // 2, latents.shape[-1] // 2)
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, grid), 2)

    def call_arguments(self) -> dict[str, Any]:
        return {**super().call_arguments(), "guidance_scale": self.embedded_guidance}
