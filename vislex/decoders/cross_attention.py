"""``cross_attention``: a causal text transformer that looks at the vision tokens in every layer, as BLIP does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel, DynamicCache, EncoderDecoderCache, GenerationConfig

from vislex.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder, shared_fields
from vislex.decoders.greedy import greedy_search, is_plain_greedy
from vislex.decoders.language_model import load_language_model
from vislex.errors import ConfigError
from vislex.specs import EncoderSpec, VisionTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__(config)
        self.text_decoder = BertLMHeadModel(config.text_config)
        self.post_init()

    @classmethod
    def create(
        cls,
        spec: EncoderSpec,
        tokenizer: PreTrainedTokenizerFast,
        *,
        hidden_size: int = 192,
        num_layers: int = 4,
        num_heads: int = 6,
        max_length: int = 32,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        language_model: str | Path | None = None,
        token_index: Tensor | None = None,
    ) -> CrossAttentionDecoder:
        """Builds the decoder for an encoder and a tokenizer.

        Args:
            spec: Spec of the encoder.
            tokenizer: Tokenizer whose ids the decoder writes.
            hidden_size: Width.
            num_layers: Number of layers.
            num_heads: Attention heads; they divide ``hidden_size``.
            max_length: Longest caption in tokens, special tokens included.
            dropout: Dropout of attention and hidden states.
            label_smoothing: Label smoothing in training.
            language_model: "minilm", or folder or hub id of a BERT, whose weights and sizes the decoder starts from;
                its cross-attention is new.
            token_index: The ``index_map`` of ``prune_tokenizer``, where the tokenizer is a pruned one of that BERT.

        Raises:
            ConfigError: If ``num_heads`` does not divide ``hidden_size``.
        """
        shared = shared_fields(spec, tokenizer, max_length)
        own = {
            "is_decoder": True,
            "add_cross_attention": True,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        if language_model is not None:
            bert = load_language_model(
                BertLMHeadModel, language_model, vocab_size=len(tokenizer), token_index=token_index, **own
            )
            config = CrossAttentionConfig(
                text_config=bert.config,
                label_smoothing=label_smoothing,
                **{**shared, "vocab_size": bert.config.vocab_size},
            )
            decoder = cls(config)
            decoder.text_decoder.load_state_dict(bert.state_dict())
            return decoder
        if hidden_size % num_heads:
            raise ConfigError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
        text_config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            max_position_embeddings=max_length,
            initializer_range=hidden_size**-0.5,  # the usual 0.02 leaves a narrow model blind for 500 steps
            type_vocab_size=1,
            pad_token_id=shared["pad_token_id"],
            bos_token_id=shared["bos_token_id"],
            eos_token_id=shared["eos_token_id"],
            **own,
        )
        return cls(CrossAttentionConfig(text_config=text_config, label_smoothing=label_smoothing, **shared))

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

    def _generate(self, vision: VisionTokens, input_ids: Tensor, settings: GenerationConfig) -> Tensor:
        if is_plain_greedy(settings):
            return greedy_search(self.text_decoder, vision, input_ids, settings)
        # A bare DynamicCache, transformers' default here, has no room for the keys and values of the vision tokens.
        cache = {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
        return self.text_decoder.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=settings,
            encoder_hidden_states=vision.tokens,
            encoder_attention_mask=vision.mask,
            **({} if settings.use_cache is False else cache),
        )
