"""``Captioner``: a vision encoder and a caption decoder as one ``PreTrainedModel``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModel, GenerationConfig, GenerationMixin

from vislex.captioner_config import CaptionerConfig
from vislex.captioner_processing import CaptionProcessor
from vislex.composite import CompositeModel, encoder_is_its_source, join_configs, not_none
from vislex.data.images import image_batches
from vislex.decoders.base import CaptionDecoder, CaptionDecoderOutput
from vislex.decoders.factory import create_decoder
from vislex.decoders.infill import parse_template
from vislex.decoders.trace import CaptionStep, caption_steps
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.encoders.sources import is_untrained
from vislex.errors import CheckpointError, ConfigError, SpecError
from vislex.hub import model_card
from vislex.specs import VisionTokens
from vislex.text import load_tokenizer

__all__ = ["Caption", "Captioner", "InfilledCaption"]


@dataclass(frozen=True)
class Caption:
    """One caption and what it took.

    Attributes:
        text: The caption.
        evaluations: Network evaluations of the decoder: one forward of one caption counts one.
        seconds: Wall time of preprocessing, encoding and decoding the batch, divided by its size.
        trace: The words after each step, where ``trace=True`` asked for them.
    """

    text: str
    evaluations: int
    seconds: float
    trace: tuple[CaptionStep, ...] = ()


@dataclass(frozen=True)
class InfilledCaption(Caption):
    """A caption made from a template.

    Attributes:
        blanks: The words of each blank.
    """

    blanks: tuple[str, ...] = field(kw_only=True)


class Captioner(CompositeModel, GenerationMixin):
    """An encoder's tokens, turned into captions by a decoder.

    Attributes:
        encoder: ``VisionEncoder``.
        decoder: ``CaptionDecoder``.
        processor: ``CaptionProcessor``, saved beside the model.
    """

    config_class = CaptionerConfig
    config: CaptionerConfig
    kind = "captioner"
    processor_class = CaptionProcessor
    main_input_name = "pixel_values"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    input_modalities = ("image", "text")

    def __init__(
        self, config: CaptionerConfig, encoder: VisionEncoder | None = None, decoder: CaptionDecoder | None = None
    ) -> None:
        super().__init__(config)
        if encoder is None or decoder is None:
            import vislex.auto  # noqa: F401
        self.encoder: VisionEncoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
        self.decoder: CaptionDecoder = AutoModel.from_config(config.decoder_config) if decoder is None else decoder
        if config.saved_by_reference("encoder"):
            self._keys_to_ignore_on_load_missing = [r"^encoder\."]
        self.post_init()
        self.generation_config = GenerationConfig(
            bos_token_id=self.decoder.config.bos_token_id,
            eos_token_id=self.decoder.config.eos_token_id,
            pad_token_id=self.decoder.config.pad_token_id,
            max_new_tokens=self.decoder.config.max_length - 1,
        )

    @classmethod
    def from_parts(
        cls,
        *,
        encoder: VisionEncoder | str,
        decoder: CaptionDecoder | str,
        tokenizer: Any = None,
        **decoder_options: Any,
    ) -> Self:
        """Joins an encoder and a decoder.

        Args:
            encoder: Built encoder, or a name, which is created with its pretrained weights.
            decoder: Built decoder, or a name, which is created for this encoder.
            tokenizer: Tokenizer of the decoder, its folder or its hub id; MiniLM's by default.
            **decoder_options: Options of a decoder given by name.

        Raises:
            SpecError: If a built decoder reads tokens of another width, or has fewer ids than the tokenizer.
            ConfigError: If there are options for a decoder that is already built.
        """
        from vislex.processing import create_image_processor

        if isinstance(encoder, str):
            encoder = create_encoder(encoder, pretrained=True)
        if tokenizer is None or isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer("minilm" if tokenizer is None else tokenizer)
        if isinstance(decoder, str):
            decoder = create_decoder(decoder, encoder.spec, tokenizer, **decoder_options)
        elif decoder_options:
            raise ConfigError(
                f"options {', '.join(decoder_options)} are for a decoder given by name; this one is built"
            )
        if decoder.config.vision_dim != encoder.spec.dim:
            raise SpecError(
                f"the decoder reads vision tokens of width {decoder.config.vision_dim}, the encoder gives "
                f"{encoder.spec.dim}; create the decoder with this encoder's spec"
            )
        if len(tokenizer) > decoder.config.vocab_size:
            raise SpecError(
                f"the tokenizer has {len(tokenizer)} entries, the decoder {decoder.config.vocab_size}; create the "
                "decoder with this tokenizer"
            )
        config = join_configs(CaptionerConfig, {"encoder": encoder, "decoder": decoder})
        captioner = cls(config, encoder, decoder)
        captioner.processor = CaptionProcessor(
            create_image_processor(encoder.spec), tokenizer, max_length=decoder.config.max_length
        )
        return captioner

    def encode(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """Runs the encoder; see ``VisionEncoder.forward``."""
        vision: VisionTokens = self.encoder(pixel_values, **image_inputs)
        return vision

    def _vision(
        self,
        pixel_values: Tensor | None,
        vision_tokens: VisionTokens | Tensor | None,
        vision_mask: Tensor | None,
        image_inputs: dict[str, Any],
    ) -> VisionTokens:
        if (pixel_values is None) == (vision_tokens is None):
            raise SpecError("give a captioner either pixel_values or vision_tokens")
        if vision_tokens is None:
            return self.encode(pixel_values, **image_inputs)
        if isinstance(vision_tokens, Tensor):
            return VisionTokens(vision_tokens, vision_mask)
        return vision_tokens

    def forward(
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        vision_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> CaptionDecoderOutput:
        """Computes the training loss of captions.

        Args:
            pixel_values: float[B, 3, H, W]; or give ``vision_tokens``.
            vision_tokens: Encoder output, or its tokens float[B, N, D], for example from a cache.
            vision_mask: bool[B, N], True on real tokens, where ``vision_tokens`` is a bare tensor.
            input_ids: int64[B, L].
            attention_mask: int64[B, L], 1 on real tokens.
            labels: int64[B, L], -100 where no loss is taken; the decoder shifts them.
            spatial_shapes: int64[B, 2] of variable-length encoders.
            pixel_attention_mask: bool[B, N] of variable-length encoders.
            **kwargs: Further inputs of the decoder.
        """
        image_inputs = not_none(spatial_shapes=spatial_shapes, pixel_attention_mask=pixel_attention_mask)
        vision = self._vision(pixel_values, vision_tokens, vision_mask, image_inputs)
        output: CaptionDecoderOutput = self.decoder(
            vision, input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs
        )
        return output

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        vision_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        indices: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Writes one caption an image; the image is encoded once.

        Args:
            pixel_values: float[B, 3, H, W]; or give ``vision_tokens``.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            generation_config: transformers' ``GenerationConfig``; the captioner's own by default.
            vision_mask: bool[B, N], where ``vision_tokens`` is a bare tensor.
            input_ids: int64[B, P] beginnings of the captions; a last [SEP], which processors add, is dropped.
            attention_mask: int64[B, P]; the beginnings of one call must be equally long, so it must be all ones.
            indices: int64[B], number of each caption in the run, from which what is drawn for it follows.
            spatial_shapes: int64[B, 2] of variable-length encoders.
            pixel_attention_mask: bool[B, N] of variable-length encoders.
            **kwargs: Fields of ``GenerationConfig`` and the decoder's own options.

        Returns:
            int64[B, L] ids, padded; ``captioner.decoder.evaluations`` tells what they took.
        """
        image_inputs = not_none(spatial_shapes=spatial_shapes, pixel_attention_mask=pixel_attention_mask)
        vision = self._vision(pixel_values, vision_tokens, vision_mask, image_inputs)
        if input_ids is not None:
            if attention_mask is not None and not bool(attention_mask.all()):
                raise SpecError("the beginnings of captions in one call must be equally long; call once for each")
            if input_ids.shape[1] > 1 and bool((input_ids[:, -1] == self.decoder.config.eos_token_id).all()):
                input_ids = input_ids[:, :-1]
            if input_ids.shape[1] > 1:
                kwargs["input_ids"] = input_ids
        return self.decoder.generate(
            vision_tokens=vision,
            generation_config=generation_config or self.generation_config,
            indices=indices,
            **kwargs,
        )

    def caption(
        self, images: Any, *, batch_size: int = 16, indices: Sequence[int] | None = None, **options: Any
    ) -> list[Caption]:
        """Captions images.

        Args:
            images: One image or many: paths, PIL images, uint8 arrays [H, W, 3].
            batch_size: Images a batch.
            indices: Number of each caption in the run, from which what is drawn for it follows; counted from 0 by
                default. A run in several calls, or in several processes, numbers its images throughout.
            **options: Passed to ``generate``: ``num_beams``, ``max_new_tokens``, ``do_sample``, ``num_candidates``,
                ``seed``, ``trace``, ...

        Raises:
            ConfigError: If there is not one number for each image.
            ImageError: If a file is missing, damaged or no image.
        """
        captions: list[Caption] = []
        with self._captioning() as processor:
            for batch in image_batches(images, batch_size):
                start = time.perf_counter()
                inputs = processor(batch).to(self.device)
                numbers = range(len(captions), len(captions) + len(batch))
                own = torch.tensor(numbers if indices is None else indices[numbers.start : numbers.stop])
                if len(own) < len(batch):
                    raise ConfigError("there are more images than indices; give one index for each image")
                texts = processor.decode_captions(self.generate(**inputs, indices=own, **options))
                seconds = (time.perf_counter() - start) / len(batch)
                traces = self.decoder.trace or [[]] * len(texts)
                steps = [tuple(caption_steps(trace, processor.tokenizer)) for trace in traces]
                captions += [
                    Caption(text, count, seconds, trace)
                    for text, count, trace in zip(texts, self._evaluations(texts), steps, strict=True)
                ]
        return captions

    def infill(
        self,
        images: Any,
        templates: str | Sequence[str],
        *,
        blank_lengths: int | Sequence[int] | None = None,
        batch_size: int = 16,
        **options: Any,
    ) -> list[InfilledCaption]:
        """Fills the blanks of captions: ``captioner.infill("image.png", "a ___ on a ___ table")``.

        Args:
            images: One image or many: paths, PIL images, uint8 arrays [H, W, 3].
            templates: One for all images, or one for each. The given text is kept letter for letter.
            blank_lengths: Word pieces of every blank, or of each blank; None: each blank is one word.
            batch_size: Images a batch.
            **options: The decoder's own: ``num_inference_steps`` for ``masked``, ``mode`` for ``cross_attention``, ...

        Raises:
            ConfigError: If there is not one template for each image, or one has no blank.
            ImageError: If a file is missing, damaged or no image.
        """
        captions: list[InfilledCaption] = []
        with self._captioning() as processor:
            tokenizer = processor.tokenizer
            given = iter(itertools.repeat(templates) if isinstance(templates, str) else templates)
            for batch in image_batches(images, batch_size):
                texts = list(itertools.islice(given, len(batch)))
                if len(texts) < len(batch):
                    raise ConfigError("there are more images than templates; give one template, or one for each image")
                parsed = [parse_template(text, tokenizer, blank_lengths=blank_lengths) for text in texts]
                start = time.perf_counter()
                vision = self.encode(**processor(batch).to(self.device))
                indices = torch.arange(len(captions), len(captions) + len(batch))
                filled = self.decoder.infill(vision, parsed, **{"indices": indices, **options})
                words = [tuple(tokenizer.batch_decode(own.fillers)) for own in filled]
                seconds = (time.perf_counter() - start) / len(batch)
                captions += [
                    InfilledCaption(template.fill(blanks), count, seconds, blanks=blanks)
                    for template, blanks, count in zip(parsed, words, self._evaluations(words), strict=True)
                ]
            if not isinstance(templates, str) and next(given, None) is not None:
                raise ConfigError("there are more templates than images; give one template, or one for each image")
        return captions

    @contextmanager
    def _captioning(self) -> Iterator[CaptionProcessor]:
        """Evaluation mode without gradients, and the processor.

        Raises:
            CheckpointError: If there is none.
        """
        if self.processor is None:
            raise CheckpointError("this captioner has no processor; set captioner.processor or use from_parts")
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield self.processor
        finally:
            self.train(training)

    def _evaluations(self, captions: Sequence[Any]) -> list[int]:
        counted = self.decoder.evaluations
        return [0] * len(captions) if counted is None else [int(count) for count in counted]

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *args: Any,
        state_dict: dict[str, Tensor] | None = None,
        standalone: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves weights (safetensors), config, processor and a model card.

        An encoder that is frozen and still holds the very weights of its source is saved by reference; all else by
        value.

        Args:
            save_directory: Folder.
            *args: See ``PreTrainedModel.save_pretrained``.
            state_dict: Weights to save instead of the model's own.
            standalone: Whether to save every part by value.
            **kwargs: See ``PreTrainedModel.save_pretrained``.
        """
        by_reference = not standalone and encoder_is_its_source(self.encoder)
        self.config.parts = {
            "encoder": {"by": "reference" if by_reference else "value"},
            "decoder": {"by": "value"},
        }
        state_dict = self.state_dict() if state_dict is None else state_dict
        if by_reference:
            state_dict = {name: value for name, value in state_dict.items() if not name.startswith("encoder.")}
        super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)
        (Path(save_directory) / "README.md").write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        encoder, decoder = self.encoder.config, self.decoder.config
        parts = self.config.parts or {}
        facts = {
            "Encoder": f"`{encoder.name or encoder.model_type}`, "
            + ("untrained, " if is_untrained(encoder) else "")
            + f"saved by {parts.get('encoder', {}).get('by')}",
            "Decoder": f"`{decoder.model_type.removeprefix('vislex_')}`, vocabulary {decoder.vocab_size}",
            "Parameters": f"{sum(p.numel() for p in self.parameters()):,}",
            "Image size": " x ".join(map(str, self.encoder.spec.image_size)),
        }
        usage = 'import vislex\n\ncaptioner = vislex.Captioner.from_pretrained("THIS_FOLDER")\n'
        usage += 'print(captioner.caption("image.png")[0].text)'
        return model_card("Image captioner", facts, usage, self.card_notes)
