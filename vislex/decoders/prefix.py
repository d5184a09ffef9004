"""``prefix``: vision tokens stand before the words in one causal language model, as in ClipCap and GIT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GPT2Config
from transformers.configuration_utils import SubConfigSpec

from vislex.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder, shared_fields
from vislex.decoders.language_model import load_language_model
from vislex.errors import ConfigError
from vislex.specs import EncoderSpec, VisionTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config)
        self.text_decoder = AutoModelForCausalLM.from_config(config.text_config)
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
    ) -> PrefixDecoder:
        """Builds the decoder for an encoder and a tokenizer: a small GPT-2, or a pretrained causal language model.

        Args:
            spec: Spec of the encoder.
            tokenizer: Tokenizer whose ids the decoder writes.
            hidden_size: Width.
            num_layers: Number of layers.
            num_heads: Attention heads; they divide ``hidden_size``.
            max_length: Longest caption in tokens, special tokens included.
            dropout: Dropout of embeddings, attention and residual branches.
            label_smoothing: Label smoothing in training.
            language_model: Folder or hub id of a causal language model, whose weights and sizes the decoder starts
                from.
            token_index: The ``index_map`` of ``prune_tokenizer``, where the tokenizer is a pruned one of that model.

        Raises:
            ConfigError: If ``num_heads`` does not divide ``hidden_size``.
        """
        shared = shared_fields(spec, tokenizer, max_length)
        if language_model is not None:
            model = load_language_model(
                AutoModelForCausalLM, language_model, vocab_size=len(tokenizer), token_index=token_index
            )
            config = PrefixConfig(
                text_config=model.config,
                label_smoothing=label_smoothing,
                **{**shared, "vocab_size": model.config.vocab_size},
            )
            decoder = cls(config)
            decoder.text_decoder.load_state_dict(model.state_dict())
            return decoder
        if hidden_size % num_heads:
            raise ConfigError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
        text_config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=hidden_size,
            n_layer=num_layers,
            n_head=num_heads,
            n_positions=spec.n_tokens + max_length,
            initializer_range=hidden_size**-0.5,  # the usual 0.02 leaves a narrow model blind for 500 steps
            activation_function="gelu",  # exact: half the time of the tanh approximation on a CPU
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            resid_pdrop=dropout,
            pad_token_id=shared["pad_token_id"],
            bos_token_id=shared["bos_token_id"],
            eos_token_id=shared["eos_token_id"],
        )
        return cls(PrefixConfig(text_config=text_config, label_smoothing=label_smoothing, **shared))

    @property
    def longest_caption(self) -> int:
        return self.config.max_length

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

    def _generate(self, vision: VisionTokens, input_ids: Tensor, settings: GenerationConfig) -> Tensor:
        embeddings, mask = self._inputs(vision, input_ids, torch.ones_like(input_ids))
        new = self.text_decoder.generate(inputs_embeds=embeddings, attention_mask=mask, generation_config=settings)
        beginning = input_ids.repeat_interleave(new.shape[0] // input_ids.shape[0], dim=0)
        return torch.cat([beginning, new], dim=1)
