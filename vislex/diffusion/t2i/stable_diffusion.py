"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, its last hidden state behind the final norm; a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vislex.diffusion.soft_tokens import ClipReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["StableDiffusion"]


class StableDiffusion(TextToImage):
    """Stable Diffusion 1.x and 2.x (arXiv 2112.10752); epsilon, or v of 2.1 at 768 pixels."""

    pipelines = ("StableDiffusionPipeline",)
    parts = {  # noqa: RUF012
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": (),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
    }
    denoiser_part = "unet"
    default_guidance = 7.5

    def make_readers(self) -> list[TextReader]:
        tokenizer = self.tokenizers["tokenizer"]
        masked = bool(getattr(self.text_encoder.config, "use_attention_mask", False))
        length = min(self.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        return [ClipReader(self.text_encoder, tokenizer, max_length=length, uses_mask=masked)]

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        return Condition(self.texts[0].read(inputs[0]).last_hidden_state)

    def pipeline_options(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
