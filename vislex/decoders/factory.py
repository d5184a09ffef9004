"""Caption decoders by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vislex.decoders.base import CaptionDecoder
from vislex.registry import registry
from vislex.specs import EncoderSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["create_decoder"]


def create_decoder(name: str, spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast, **options: Any) -> CaptionDecoder:
    """Builds a registered caption decoder for an encoder and a vocabulary, randomly initialised.

    Args:
        name: A name of ``vislex list decoders``.
        spec: Spec of the encoder whose tokens the decoder will read.
        tokenizer: Tokenizer whose ids it will write.
        **options: Sizes and choices of the decoder (``hidden_size``, ``num_layers``, ...).

    Raises:
        UnknownNameError: If there is no such decoder.
        ConfigError: If it knows no such option.
    """
    entry = registry("decoders").get(name)
    decoder: CaptionDecoder = entry.load().create(spec, tokenizer, **{**entry.options, **options})
    return decoder
