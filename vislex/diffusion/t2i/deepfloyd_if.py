"""DeepFloyd IF, first stage: a T5 of 77 tokens and a U-Net on pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from vislex.diffusion.soft_tokens import EmbedsReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["DeepFloydIF"]


class DeepFloydIF(TextToImage):
    """DeepFloyd IF-I at 64 pixels, the open relative of Imagen: three channels of noise, three of variance.

    The T5 is told of padding, the U-Net is not.
    """

    pipelines = ("IFPipeline",)
    parts = {  # noqa: RUF012
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": (),
        "unet": ("UNet2DConditionModel",),
    }
    denoiser_part = "unet"
    default_guidance = 7.0
    vae: ClassVar[None] = None

    def make_readers(self) -> list[TextReader]:
        tokenizer = self.tokenizers["tokenizer"]
        length = min(self.max_length or 77, tokenizer.model_max_length)
        return [EmbedsReader(self.text_encoder, tokenizer, max_length=length, uses_mask=True, lowercase=True)]

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        return Condition(self.texts[0].read(inputs[0]).last_hidden_state)

    def pipeline_options(self) -> dict[str, Any]:
        return {
            "safety_checker": None,
            "feature_extractor": None,
            "watermarker": None,
            "requires_safety_checker": False,
        }

    def images_of(self, output: Any) -> Tensor:
        pixels: Tensor = (output.images.float() / 2 + 0.5).clamp(0, 1)
        return pixels
