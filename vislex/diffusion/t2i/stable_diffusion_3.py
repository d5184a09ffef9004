"""Stable Diffusion 3 and 3.5: two CLIPs and a T5 one after the other, pooled vectors of both CLIPs; a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from vislex.diffusion.soft_tokens import ClipReader, EmbedsReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["StableDiffusion3"]


class StableDiffusion3(TextToImage):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206).

    The CLIP states (last but one, side by side, padded with zeros to T5's width) come before T5's, which is told of no
    padding. Without the T5 its place is filled with zeros, as the stock pipeline does.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    parts = {  # noqa: RUF012
        "text_encoder": ("CLIPTextModelWithProjection",),
        "tokenizer": (),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": (),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer_3": (),
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
    }
    optional = frozenset({"text_encoder_3", "tokenizer_3"})
    predictions = ("flow",)
    default_density = "logit_normal"
    default_guidance = 7.0
    t5_length = 256

    def make_readers(self) -> list[TextReader]:
        tokenizer = self.tokenizers["tokenizer"]
        length = tokenizer.model_max_length  # also for the second, as in the pipeline
        readers: list[TextReader] = [
            ClipReader(self.text_encoder, tokenizer, max_length=length),
            ClipReader(self.text_encoder_2, self.tokenizers["tokenizer_2"], max_length=length),
        ]
        if self.text_encoder_3 is not None:
            t5 = self.tokenizers["tokenizer_3"]
            length = min(self.max_length or self.t5_length, t5.model_max_length)
            readers.append(EmbedsReader(self.text_encoder_3, t5, max_length=length))
        return readers

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        clips = [
            text.read(own, output_hidden_states=True) for text, own in zip(self.texts[:2], inputs[:2], strict=True)
        ]
        first = torch.cat([output.hidden_states[-2] for output in clips], dim=-1)
        width = self.transformer.config.joint_attention_dim
        if len(inputs) == 3:
            second = self.texts[2].read(inputs[2]).last_hidden_state
        else:
            second = first.new_zeros(len(first), self.max_length or self.t5_length, width)
        first = F.pad(first, (0, width - first.shape[-1]))
        pooled = torch.cat([output.text_embeds for output in clips], dim=-1)
        return Condition(torch.cat([first, second], dim=1), pooled_prompt_embeds=pooled)

    def condition_arguments(self, condition: Condition) -> dict[str, Any]:
        return {
            "encoder_hidden_states": condition.prompt_embeds,
            "pooled_projections": condition.pooled_prompt_embeds,
        }
