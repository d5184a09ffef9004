"""Sana: the last hidden state of Gemma 2 with its mask, a deeply compressing autoencoder; a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vislex.diffusion.soft_tokens import EmbedsReader, TextInputs, TextReader
from vislex.diffusion.t2i.base import Condition, TextToImage

__all__ = ["Sana"]


class Sana(TextToImage):
    """Sana (arXiv 2410.10629): 300 tokens, of a longer sequence the first and the last 299.

    Args:
        instruction: Lines before every prompt ("complex human instruction"); none by default.
        **components: See ``TextToImage``.
    """

    pipelines = ("SanaPipeline",)
    parts = {  # noqa: RUF012
        "text_encoder": ("Gemma2Model",),
        "tokenizer": (),
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
    }
    predictions = ("flow",)
    default_density = "logit_normal"

    def __init__(self, *, instruction: Sequence[str] = (), **components: Any) -> None:
        self.instruction = tuple(instruction)
        super().__init__(**components)

    def make_readers(self) -> list[TextReader]:
        tokenizer = self.tokenizers["tokenizer"]
        tokenizer.padding_side = "right"
        self.text_length = min(self.max_length or 300, tokenizer.model_max_length)
        return [
            EmbedsReader(
                self.text_encoder,
                tokenizer,
                max_length=self.text_length,
                uses_mask=True,
                lowercase=True,
                instruction="\n".join(self.instruction),
            )
        ]

    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        chosen = [0, *range(-self.text_length + 1, 0)]
        hidden = self.texts[0].read(inputs[0]).last_hidden_state
        return Condition(hidden[:, chosen], prompt_attention_mask=inputs[0].attention_mask[:, chosen])

    def condition_arguments(self, condition: Condition) -> dict[str, Any]:
        return {
            "encoder_hidden_states": condition.prompt_embeds,
            "encoder_attention_mask": condition.prompt_attention_mask,
        }

    def network_time(self, timesteps: Tensor) -> Tensor:
        return timesteps * self.transformer.config.timestep_scale

    def call_arguments(self) -> dict[str, Any]:
        return {**super().call_arguments(), "use_resolution_binning": False, "negative_prompt": None}
