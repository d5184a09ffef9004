"""What every caption decoder is: a ``PreTrainedModel`` that turns vision tokens into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from vislex.errors import SpecError
from vislex.specs import VisionTokens

if TYPE_CHECKING:
    from vislex.decoders.infill import Filled, Template

__all__ = ["CaptionDecoder", "CaptionDecoderConfig", "CaptionDecoderOutput", "as_vision_tokens"]


class CaptionDecoderConfig(PreTrainedConfig):
    """Base of the decoders' configs; each decoder declares its own ``model_type`` ("vislex_<name>") and fields.

    Attributes:
        vision_dim: Width of the encoder's tokens.
        vocab_size: Number of word pieces.
        max_length: Longest caption in word pieces, with the first and last special token.
    """

    model_type = "vislex_decoder"

    vision_dim: int = 192
    vocab_size: int = 30522
    max_length: int = 32
    bos_token_id: int | None = 101
    eos_token_id: int | None = 102
    pad_token_id: int | None = 0


@dataclass
class CaptionDecoderOutput(ModelOutput):
    """Training output of a decoder.

    Attributes:
        loss: float[], mean over the supervised tokens; None without labels.
        logits: float[B, L, V]; None where the decoder forms none in training.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class CaptionDecoder(PreTrainedModel):
    """Base of the decoders.

    ``evaluations`` holds the network evaluations that the last ``generate`` spent on each caption, int64[B]: one
    forward of one caption counts one, so a guided step counts two and a beam of four counts four a token.

    ``draws_noise`` says that captions are made from noise: ``generate`` then takes ``indices`` int64[B], the number of
    each caption in the run, so that a seed gives the same captions at any batch size.
    """

    config_class = CaptionDecoderConfig
    config: CaptionDecoderConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    evaluations: Tensor | None = None
    draws_noise = False

    def forward(
        self,
        vision_tokens: VisionTokens | Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CaptionDecoderOutput:
        """Computes the training loss.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            input_ids: int64[B, L], [CLS] word pieces [SEP] [PAD]*.
            attention_mask: int64[B, L], 1 on real word pieces.
            labels: int64[B, L], ``input_ids`` with -100 where no loss is taken; the decoder shifts them itself.
        """
        raise SpecError(f"{type(self).__name__} does not implement forward()")

    def generate(
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Generates one caption an image.

        Args:
            pixel_values: Not accepted by a bare decoder (a ``Captioner`` encodes them); here for one signature.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            generation_config: transformers' ``GenerationConfig``; ``kwargs`` override its fields.

        Returns:
            int64[B, L] token ids, padded with ``pad_token_id``.
        """
        raise SpecError(f"{type(self).__name__} does not implement generate()")

    def infill(
        self, vision_tokens: VisionTokens | Tensor, templates: Sequence[Template], **options: Any
    ) -> list[Filled]:
        """Fills the blanks of templates; ``evaluations`` then holds what each took.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            templates: B captions with blanks (``vislex.decoders.infill.parse_template``).
            **options: The decoder's own.
        """
        raise SpecError(f"{type(self).__name__} does not fill blanks; the decoders of 'vislex list decoders' do")


def as_vision_tokens(vision_tokens: VisionTokens | Tensor) -> VisionTokens:
    """Wraps a bare tensor float[B, N, D]."""
    return VisionTokens(vision_tokens) if isinstance(vision_tokens, torch.Tensor) else vision_tokens
