"""``CaptionProcessor``: images to pixels, captions to ids and ids to captions; saved beside the captioner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from vislex.errors import ConfigError
from vislex.text import encode_captions, postprocess_caption

__all__ = ["CaptionProcessor"]


class CaptionProcessor(ProcessorMixin):
    """An encoder's image processor and a decoder's tokenizer.

    Args:
        image_processor: Stock image processor of transformers, made from the encoder's spec.
        tokenizer: Tokenizer of the decoder.
        max_length: Longest caption in tokens, special tokens included.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, max_length: int = 32, **kwargs: Any) -> None:
        self.max_length = max_length
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares images, texts or both.

        Args:
            images: One image or a list (PIL, uint8 arrays [H, W, 3], tensors).
            text: Captions, or the beginnings of captions for ``generate``.
            return_tensors: "pt".
            **kwargs: What pipelines pass to every processor ("padding"); captions are always padded to the longest.

        Returns:
            ``pixel_values`` float[B, 3, H, W] with what else the image processor gives, and ``input_ids`` and
            ``attention_mask`` int64[B, L].
        """
        if return_tensors not in ("pt", None):
            raise ConfigError(f"return_tensors={return_tensors!r} is not offered; use 'pt'")
        inputs: dict[str, Any] = {}
        if images is not None:
            inputs.update(self.image_processor(images, return_tensors="pt"))
        if text is not None:
            encoded = self.encode_captions([text] if isinstance(text, str) else text)
            inputs.update({name: encoded[name] for name in ("input_ids", "attention_mask")})
        return BatchFeature(inputs)

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Ids, mask and labels of training captions; see ``vislex.text.encode_captions``."""
        return encode_captions(self.tokenizer, captions, max_length=self.max_length)

    def decode_captions(self, ids: Tensor) -> list[str]:
        """Captions of int64[B, L], post-processed as every decoder's are."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [postprocess_caption(text) for text in texts]

    def post_process_image_text_to_text(
        self, generated_outputs: Tensor, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """What ``pipeline("image-text-to-text")`` calls: captions of int64[B, L]."""
        if skip_special_tokens:
            return self.decode_captions(generated_outputs)
        texts: list[str] = self.tokenizer.batch_decode(generated_outputs, skip_special_tokens=False)
        return texts

    @property
    def model_input_names(self) -> list[str]:
        return [*self.image_processor.model_input_names, "input_ids", "attention_mask"]
