"""``cross_attention``: a causal text transformer that looks at the vision tokens in every layer, as BLIP does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel, DynamicCache, EncoderDecoderCache, GenerationConfig

from vislex.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder
from vislex.decoders.draws import Draws
from vislex.decoders.token_loop import is_plain, write_tokens
from vislex.specs import EncoderSpec, VisionTokens

__all__ = ["CrossAttentionConfig", "CrossAttentionDecoder"]


class CrossAttentionConfig(AutoregressiveConfig):
    """Config of ``CrossAttentionDecoder``; ``text_config`` is a ``BertConfig``."""

    model_type = "vislex_cross_attention"


class CrossAttentionDecoder(AutoregressiveDecoder):
    """BLIP's text decoder (arXiv 2201.12086, section 3.1), in transformers' ``BertLMHeadModel``.

    Each layer attends to the words so far, then to the projected vision tokens. Keys and values of the words are
    cached, those of the vision tokens computed once.
    """

    config_class = CrossAttentionConfig
    language_model_class = BertLMHeadModel

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__(config)
        self.text_decoder = BertLMHeadModel(config.text_config)
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
    ) -> BertConfig:
        return BertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=intermediate_size,
            max_position_embeddings=max_length,
            type_vocab_size=1,
            **cls._language_model_changes(dropout),
            **fields,
        )

    @classmethod
    def _language_model_changes(cls, dropout: float) -> dict[str, Any]:
        return {
            "is_decoder": True,
            "add_cross_attention": True,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }

    @property
    def longest_caption(self) -> int:
        return int(self.config.text_config.max_position_embeddings)

    def _logits(self, vision: VisionTokens, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.text_decoder(
            input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=vision.tokens,
            encoder_attention_mask=vision.mask,
            use_cache=False,
        ).logits

    def _generate(
        self, vision: VisionTokens, input_ids: Tensor, settings: GenerationConfig, draws: Draws | None
    ) -> Tensor:
        if is_plain(settings):
            return write_tokens(self.text_decoder, vision, input_ids, settings, draws)
        vision = vision.repeat(len(input_ids) // len(vision.tokens))
        # A bare DynamicCache, transformers' default here, has no room for the keys and values of the vision tokens.
        cache = {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
        return self.text_decoder.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=settings,
            logits_processor=[] if draws is None else [draws],
            encoder_hidden_states=vision.tokens,
            encoder_attention_mask=vision.mask,
            **({} if settings.use_cache is False else cache),
        )
