"""PixArt-alpha and PixArt-Sigma: a T5 with its mask; also without an autoencoder, directly on pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vislex.diffusion.soft_tokens import EmbedsReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["PixArt"]


class PixArt(TextToImage):
    """PixArt-alpha (arXiv 2310.00426, 120 tokens) and PixArt-Sigma (arXiv 2403.04692, 300 tokens).

    The denoiser may predict a variance too; it is left out. alpha at 1024 pixels is also told size and aspect ratio.
    Without a ``vae`` the transformer works on pixels in [-1, 1].
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    parts = {  # noqa: RUF012
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": (),
        "transformer": ("PixArtTransformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
    }
    optional = frozenset({"vae"})
    hides_padding = True

    @property
    def is_sigma(self) -> bool:
        return self.pipeline_name == "PixArtSigmaPipeline"

    def make_readers(self) -> list[TextReader]:
        tokenizer = self.tokenizers["tokenizer"]
        length = min(self.max_length or (300 if self.is_sigma else 120), tokenizer.model_max_length)
        return [EmbedsReader(self.text_encoder, tokenizer, max_length=length, uses_mask=True, lowercase=True)]

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        hidden = self.texts[0].read(inputs[0]).last_hidden_state
        return Condition(hidden, prompt_attention_mask=inputs[0].attention_mask)

    def condition_arguments(self, condition: Condition) -> dict[str, Any]:
        return {
            "encoder_hidden_states": condition.prompt_embeds,
            "encoder_attention_mask": condition.prompt_attention_mask,
        }

    def extra_arguments(self, noisy: Tensor) -> dict[str, Any]:
        if self.is_sigma or self.transformer.config.sample_size != 128:
            return {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
        height, width = (side * self._pipeline_scale for side in noisy.shape[-2:])
        sizes = torch.tensor([[height, width]], device=noisy.device, dtype=self.dtype).repeat(len(noisy), 1)
        return {"added_cond_kwargs": {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}}

    @property
    def _pipeline_scale(self) -> int:
        """What the stock pipeline takes for pixels along a side of a latent: 8 where it has no autoencoder."""
        return self.vae_scale if self.vae is not None else 8

    def call_arguments(self) -> dict[str, Any]:
        side = self.image_size // self.vae_scale * self._pipeline_scale
        return {
            "height": side,
            "width": side,
            "output_type": "pt" if self.vae is not None else "latent",
            "use_resolution_binning": False,
            "negative_prompt": None,
        }

    def images_of(self, output: Any) -> Tensor:
        if self.vae is not None:
            return super().images_of(output)
        pixels: Tensor = (output.images.float() / 2 + 0.5).clamp(0, 1)
        return pixels
