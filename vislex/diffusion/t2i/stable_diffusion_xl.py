"""SDXL: two CLIP text encoders side by side on the channels, the pooled vector of the second, sizes as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vislex.diffusion.soft_tokens import ClipReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(TextToImage):
    """SDXL (arXiv 2307.01952): both encoders' last hidden state but one; images count as uncropped originals."""

    pipelines = ("StableDiffusionXLPipeline",)
    parts = {  # noqa: RUF012
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": (),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": (),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
    }
    denoiser_part = "unet"
    default_guidance = 5.0

    def make_readers(self) -> list[TextReader]:
        pairs = [
            (self.text_encoder, self.tokenizers["tokenizer"]),
            (self.text_encoder_2, self.tokenizers["tokenizer_2"]),
        ]
        return [
            ClipReader(
                model,
                tokenizer,
                max_length=min(self.max_length or tokenizer.model_max_length, tokenizer.model_max_length),
            )
            for model, tokenizer in pairs
        ]

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        outputs = [text.read(own, output_hidden_states=True) for text, own in zip(self.texts, inputs, strict=True)]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return Condition(hidden, pooled_prompt_embeds=outputs[1].text_embeds)

    def condition_arguments(self, condition: Condition) -> dict[str, Any]:
        return {
            "encoder_hidden_states": condition.prompt_embeds,
            "added_cond_kwargs": {"text_embeds": condition.pooled_prompt_embeds},
        }

    def extra_arguments(self, noisy: Tensor) -> dict[str, Any]:
        height, width = (side * self.vae_scale for side in noisy.shape[-2:])
        # original size, corner of the crop, target size
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device, dtype=self.dtype)
        return {"added_cond_kwargs": {"time_ids": sizes.repeat(len(noisy), 1)}}

    def pipeline_options(self) -> dict[str, Any]:
        return {"add_watermarker": False}
