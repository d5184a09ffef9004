"""Chat turns as text: the tokens of a small model's dialogue, and templates that also take images and videos."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerFast

__all__ = [
    "CHAT_TEMPLATE",
    "CHAT_TOKENS",
    "IMAGE_TOKEN",
    "VIDEO_TOKEN",
    "add_image_token",
    "chat_tokenizer",
    "location_tokens",
    "multimodal_template",
]

IMAGE_TOKEN = "<image>"
VIDEO_TOKEN = "<video>"
CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# The dialogue of models that have no template of their own; ``{% generation %}`` marks what they are trained on.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|' + message.role + '|>' }}"
    "{%- if message.role == 'assistant' -%}"
    "{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{%- else -%}{{ message.content }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)

# Turns contents that are lists of parts into text, images and videos into their placeholders.
_FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message.content is string -%}{%- set flat.text = message.content -%}{%- else -%}"
    "{%- set flat.text = '' -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{%- set flat.text = flat.text + '" + IMAGE_TOKEN + "' -%}"
    "{%- elif part.type == 'video' -%}{%- set flat.text = flat.text + '" + VIDEO_TOKEN + "' -%}"
    "{%- else -%}{%- set flat.text = flat.text + part.text -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': message.role, 'content': flat.text}] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


def multimodal_template(template: str | None) -> str:
    """A chat template that takes contents with images, from one for text; None is ``CHAT_TEMPLATE``."""
    return _FLATTEN + (CHAT_TEMPLATE if template is None else template)


def location_tokens() -> list[str]:
    """PaliGemma's 1,024 position tokens and 128 mask tokens: ``<loc0000>``, ..., ``<seg127>``."""
    return [*(f"<loc{i:04d}>" for i in range(1024)), *(f"<seg{i:03d}>" for i in range(128))]


def chat_tokenizer(tokenizer: PreTrainedTokenizerFast, extra: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Adds to a tokenizer the tokens of a dialogue and what else answers are made of, in place.

    The end of a turn is its end-of-text token, it begins no text on its own, and it has ``CHAT_TEMPLATE``.

    Args:
        tokenizer: Any fast tokenizer.
        extra: Further tokens, as ``location_tokens()``. They are words, which decoding keeps.
    """
    from tokenizers.processors import Sequence

    special = [AddedToken(token, special=True, normalized=False) for token in (*CHAT_TOKENS, IMAGE_TOKEN)]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in extra])
    tokenizer.backend_tokenizer.post_processor = Sequence([])  # [CLS] and [SEP] are no part of a dialogue
    tokenizer.eos_token = "<|end|>"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def add_image_token(tokenizer: Any) -> int:
    """The id that stands for a token of an image, added behind all others where a tokenizer has none."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
