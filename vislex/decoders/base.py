"""What every caption decoder is: a ``PreTrainedModel`` that turns vision tokens into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from vislex.decoders.projection import VisionProjection
from vislex.decoders.trace import TraceStep
from vislex.errors import SpecError
from vislex.specs import EncoderSpec, VisionTokens
from vislex.text import special_tokens

if TYPE_CHECKING:
    from vislex.decoders.infill import Filled, Template

__all__ = ["CaptionDecoder", "CaptionDecoderConfig", "CaptionDecoderOutput", "as_vision_tokens", "shared_fields"]


class CaptionDecoderConfig(PreTrainedConfig):
    """Base of the decoders' configs; each decoder declares its own ``model_type`` ("vislex_<name>") and fields.

    Attributes:
        vision_dim: Width of the encoder's tokens.
        vision_grid: Rows and columns of the map of vision tokens, which then get a learned position; None if none.
        vocab_size: Number of word pieces.
        max_length: Longest caption in word pieces, with the first and last special token.
    """

    model_type = "vislex_decoder"

    vision_dim: int = 192
    vision_grid: list[int] | tuple[int, ...] | None = None
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
    """Base of the decoders. ``projection`` brings the encoder's tokens to the width of the decoder.

    ``evaluations`` holds the network evaluations that the last ``generate`` spent on each caption, int64[B]: one
    forward of one caption counts one, so a guided step counts two and a beam of four counts four a token.

    ``trace`` holds for each caption of the last ``generate(trace=True)`` what it was after every step
    (``vislex.decoders.trace``), of the caption that was taken if there were several candidates; else None.

    ``any_order`` says that words are not written from left to right: all are open at once and may change.
    """

    config_class = CaptionDecoderConfig
    config: CaptionDecoderConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    evaluations: Tensor | None = None
    trace: list[list[TraceStep]] | None = None
    any_order = False
    projection: VisionProjection

    @property
    def longest_caption(self) -> int:
        """Most tokens that one caption can have, special tokens included."""
        return self.config.max_length

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
        *,
        input_ids: Tensor | None = None,
        indices: Tensor | None = None,
        num_candidates: int = 1,
        **kwargs: Any,
    ) -> Tensor:
        """Generates one caption an image.

        What is drawn for a caption follows from ``seed`` and its number in the run, so a seed gives the same captions
        at any batch size.

        Args:
            pixel_values: Not accepted by a bare decoder (a ``Captioner`` encodes them); here for one signature.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            generation_config: transformers' ``GenerationConfig``; ``kwargs`` override its fields.
            input_ids: int64[B, P] beginning of every caption, with its first special token.
            indices: int64[B], number of each caption in the run; the position in the batch by default.
            num_candidates: Captions drawn for each image, of which the one that agrees most with the others is taken
                (``vislex.decoders.mbr``). The image is encoded once.
            **kwargs: The decoder's own options; every decoder knows ``max_new_tokens``, ``seed`` and ``trace``.

        Returns:
            int64[B, L] token ids, padded with ``pad_token_id``.
        """
        raise SpecError(f"{type(self).__name__} does not implement generate()")

    def infill(
        self,
        vision_tokens: VisionTokens | Tensor,
        templates: Sequence[Template],
        *,
        indices: Tensor | None = None,
        **options: Any,
    ) -> list[Filled]:
        """Fills the blanks of templates; ``evaluations`` then holds what each took.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            templates: B captions with blanks (``vislex.decoders.infill.parse_template``).
            indices: int64[B], number of each caption in the run, as in ``generate``.
            **options: The decoder's own.
        """
        raise SpecError(f"{type(self).__name__} does not fill blanks; the decoders of 'vislex list decoders' do")

    @property
    def special_ids(self) -> list[int]:
        """Ids that are no words: first, last and padding token."""
        config = self.config
        return [i for i in (config.bos_token_id, config.eos_token_id, config.pad_token_id) if i is not None]

    def _project(self, vision_tokens: VisionTokens | Tensor) -> VisionTokens:
        vision = as_vision_tokens(vision_tokens)
        return VisionTokens(self.projection(vision.tokens), vision.mask)

    def _vision(self, pixel_values: Tensor | None, vision_tokens: VisionTokens | Tensor | None) -> VisionTokens:
        """The projected tokens that ``generate`` was given.

        Raises:
            SpecError: If it was given pixels, or nothing.
        """
        if pixel_values is not None or vision_tokens is None:
            raise SpecError("a decoder takes vision_tokens=; give pixel_values to a Captioner, which encodes them")
        return self._project(vision_tokens)

    def _check_length(self, input_ids: Tensor) -> None:
        """Refuses captions int64[B, L] that are longer than the decoder has positions for."""
        if input_ids.shape[1] > self.longest_caption:
            raise SpecError(
                f"the captions have {input_ids.shape[1]} tokens, this decoder reads {self.longest_caption}; cut them "
                "(encode_captions, max_length=) or create the decoder with a larger max_length"
            )


def shared_fields(spec: EncoderSpec, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Config fields that follow from the encoder and the tokenizer, whatever the decoder."""
    special = special_tokens(tokenizer)
    return {
        "vision_dim": spec.dim,
        "vision_grid": None if spec.variable_length or spec.grid is None else list(spec.grid),
        "vocab_size": len(tokenizer),
        "max_length": max_length,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
    }


def as_vision_tokens(vision_tokens: VisionTokens | Tensor) -> VisionTokens:
    """Wraps a bare tensor float[B, N, D]."""
    return VisionTokens(vision_tokens) if isinstance(vision_tokens, torch.Tensor) else vision_tokens
