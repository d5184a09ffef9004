"""``prefix``: vision tokens stand before the words in one causal language model, as in ClipCap and GIT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GPT2Config
from transformers.configuration_utils import SubConfigSpec

from vislex.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from vislex.decoders.draws import Draws
from vislex.specs import EncoderSpec, VisionTokens

__all__ = ["PrefixConfig", "PrefixDecoder"]


class PrefixConfig(AutoregressiveConfig):
    """Config of ``PrefixDecoder``; ``text_config`` is the config of any causal language model of transformers."""

    model_type = "vislex_prefix"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="gpt2")}  # noqa: RUF012


class PrefixDecoder(AutoregressiveDecoder):
    """ClipCap's (arXiv 2111.09734) and GIT's (arXiv 2205.14100) decoder in any causal language model of transformers.

    The projected vision tokens are read first, then the words; the loss is taken on words only.
    """

    config_class = PrefixConfig
    language_model_class = AutoModelForCausalLM

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config)
        self.text_decoder = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @classmethod
    def _text_config(
        cls,
        spec: EncoderSpec,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_length: int,
        dropout: float,
        **fields: Any,
    ) -> GPT2Config:
        return GPT2Config(
            n_embd=hidden_size,
            n_layer=num_layers,
            n_head=num_heads,
            n_inner=intermediate_size,
            n_positions=spec.n_tokens + max_length,
            activation_function="gelu",  # exact: half the time of the tanh approximation on a CPU
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            resid_pdrop=dropout,
            **fields,
        )

    def _inputs(self, vision: VisionTokens, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings float[B, N + L, D] and mask int64[B, N + L] of the vision tokens and the words after them."""
        words = self.get_input_embeddings()(input_ids)
        vision_mask = attention_mask.new_ones(vision.tokens.shape[:2]) if vision.mask is None else vision.mask
        mask = torch.cat([vision_mask.to(attention_mask.dtype), attention_mask], dim=1)
        return torch.cat([vision.tokens.to(words.dtype), words], dim=1), mask

    def _logits(self, vision: VisionTokens, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embeddings, mask = self._inputs(vision, input_ids, attention_mask)
        # Positions count real tokens only, so that padding among the vision tokens changes nothing.
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        return self.text_decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=input_ids.shape[1],
        ).logits

    def _generate(
        self, vision: VisionTokens, input_ids: Tensor, settings: GenerationConfig, draws: Draws | None
    ) -> Tensor:
        vision = vision.repeat(len(input_ids) // len(vision.tokens))
        embeddings, mask = self._inputs(vision, input_ids, torch.ones_like(input_ids))
        new = self.text_decoder.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=[] if draws is None else [draws],
        )
        beginning = input_ids.repeat_interleave(new.shape[0] // input_ids.shape[0], dim=0)
        return torch.cat([beginning, new], dim=1)
