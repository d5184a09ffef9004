"""``VisionLanguageModel``: any vision encoder, connector and causal language model as one ``PreTrainedModel``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from vislex.adapters.connectors import Connector, create_connector
from vislex.adapters.llms import create_llm, grow_vocabulary, load_llm_tokenizer
from vislex.adapters.mask_head import MaskHead, MaskHeadSettings, find_masks, place_masks
from vislex.adapters.vlm_ask import Answer, ask
from vislex.adapters.vlm_config import ATTENTIONS, VisionLanguageConfig
from vislex.adapters.vlm_masks import positions_of, prefix_mask
from vislex.adapters.vlm_processing import VisionLanguageProcessor
from vislex.adapters.vlm_saving import load_llm_from_source, record_parts, vlm_card
from vislex.adapters.vlm_segment import Segmentation, segment
from vislex.adapters.vlm_words import WordsOnly
from vislex.composite import CompositeModel, join_configs, not_none
from vislex.decoders.base import as_vision_tokens
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError, SpecError
from vislex.processing import create_image_processor
from vislex.specs import VisionTokens
from vislex.text import load_tokenizer

__all__ = ["VisionLanguageModel", "VisionLanguageOutput"]


@dataclass
class VisionLanguageOutput(CausalLMOutputWithPast):
    """Output of a ``VisionLanguageModel``; with labels, ``logits`` are those of the positions with a loss alone.

    Attributes:
        mask_logits: float[M, h, w] of the mask head, for each ``<SEG>`` in the labels; None where there is none.
    """

    mask_logits: Tensor | None = None


class VisionLanguageModel(CompositeModel, GenerationMixin):
    """Images become tokens of the language model, in the places that ``image_token_id`` holds.

    Attributes:
        encoder: ``VisionEncoder``.
        connector: ``Connector``.
        llm: Any ``AutoModelForCausalLM``.
        mask_head: ``MaskHead`` of a model that was trained with codec ``seg_head``; else None.
        processor: ``VisionLanguageProcessor``, saved beside the model.
    """

    config_class = VisionLanguageConfig
    config: VisionLanguageConfig
    kind = "vision-language model"
    processor_class = VisionLanguageProcessor
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    input_modalities = ("image", "text")

    def __init__(
        self,
        config: VisionLanguageConfig,
        encoder: VisionEncoder | None = None,
        connector: Connector | None = None,
        llm: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        import vislex.auto  # noqa: F401

        self.encoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
        self.connector = AutoModel.from_config(config.connector_config) if connector is None else connector
        self.llm = AutoModelForCausalLM.from_config(config.llm_config) if llm is None else llm
        self.mask_head: MaskHead | None = None
        if config.mask_head is not None:
            self.set_mask_head(MaskHeadSettings.from_dict(config.mask_head))
        referenced = [part for part in ("encoder", "llm") if config.saved_by_reference(part)]
        if referenced:
            self._keys_to_ignore_on_load_missing = [rf"^{part}\." for part in referenced]
        self.post_init()
        self.generation_config: GenerationConfig = copy.deepcopy(self.llm.generation_config)

    @classmethod
    def from_parts(
        cls,
        *,
        encoder: VisionEncoder | str,
        connector: Connector | str = "mlp",
        llm: PreTrainedModel | str,
        tokenizer: Any = None,
        attention: str = "causal",
        **connector_options: Any,
    ) -> Self:
        """Joins an encoder, a connector and a language model.

        Args:
            encoder: Built encoder, or a name, which is created with its pretrained weights.
            connector: Built connector, or a name, which is created for these two.
            llm: Built language model, or a name, which is created with its pretrained weights.
            tokenizer: Tokenizer of the language model, its folder or hub id; needed where ``llm`` is built.
            attention: See ``VisionLanguageConfig``.
            **connector_options: Options of a connector given by name.

        Raises:
            SpecError: If built parts do not fit each other.
            ConfigError: If there is no tokenizer, or options for a connector that is already built.
        """
        if attention not in ATTENTIONS:
            raise ConfigError(f"attention is '{attention}'; allowed are {' and '.join(ATTENTIONS)}")
        if tokenizer is None and not isinstance(llm, str):
            raise ConfigError("this language model is already built: pass its tokenizer= too")
        if tokenizer is None or isinstance(tokenizer, str | Path):
            tokenizer = load_llm_tokenizer(str(llm)) if tokenizer is None else load_tokenizer(tokenizer)
        encoder = create_encoder(encoder, pretrained=True) if isinstance(encoder, str) else encoder
        llm = create_llm(llm, pretrained=True) if isinstance(llm, str) else llm
        width = llm.get_input_embeddings().weight.shape[1]
        if isinstance(connector, str):
            connector = create_connector(connector, encoder.spec, width, **connector_options)
        elif connector_options:
            raise ConfigError(f"options {', '.join(connector_options)} are for a connector given by name")
        if connector.config.encoder_spec != encoder.spec or connector.config.out_dim != width:
            raise SpecError(
                f"the connector was made for another encoder, or for a language model of width "
                f"{connector.config.out_dim} instead of {width}; create it with this encoder's spec and this width"
            )
        processor = VisionLanguageProcessor(
            create_image_processor(encoder.spec), copy.deepcopy(tokenizer), connector.config.to_dict()
        )
        grow_vocabulary(llm, len(processor.tokenizer))
        parts = {"encoder": encoder, "connector": connector, "llm": llm}
        fields = {"image_token_id": processor.image_token_id, "attention": attention}
        model = cls(join_configs(VisionLanguageConfig, parts, **fields), encoder, connector, llm)
        model.processor = processor
        model._set_generation(processor)
        return model

    def set_mask_head(self, settings: MaskHeadSettings) -> None:
        """Gives the model a mask head, which its config then names; its weights are drawn from torch's generator.

        Raises:
            ConfigError: If the encoder gives no grid of tokens.
        """
        width = self.get_output_embeddings().weight.shape[1]
        head = MaskHead(settings, self.connector.config.encoder_spec, width)
        self.mask_head = head.to(self.device, self.dtype).train(self.training)
        self.config.mask_head = settings.to_dict()

    def encode(
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        vision_mask: Tensor | None = None,
        **image_inputs: Any,
    ) -> VisionTokens | None:
        """What the encoder gives for images: float[images, N, D]; None if there are none.

        A frozen encoder runs without gradients; its output can be given in place of pixels, from a cache.
        """
        if vision_tokens is None and pixel_values is None:
            return None
        if vision_tokens is None:
            trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.encoder.parameters())
            with torch.set_grad_enabled(trained):
                seen: VisionTokens = self.encoder(pixel_values, **not_none(**image_inputs))
            return seen
        vision = as_vision_tokens(vision_tokens)
        return VisionTokens(vision.tokens, vision.mask if vision_mask is None else vision_mask)

    def see(
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        vision_mask: Tensor | None = None,
        n_tokens: int | None = None,
        **image_inputs: Any,
    ) -> VisionTokens | None:
        """Images as tokens of the language model: float[images, M, width]; None if there are none; see ``encode``."""
        seen = self.encode(pixel_values, vision_tokens, vision_mask, **image_inputs)
        return None if seen is None else self.connector(seen, n_tokens)

    def embed(self, input_ids: Tensor, vision: VisionTokens | None) -> Tensor:
        """Embeddings float[B, L, width] of ids int64[B, L], those of images in their places.

        Raises:
            SpecError: If a prompt has room for more or fewer tokens than its images give.
        """
        is_image = input_ids == self.config.image_token_id
        embeds: Tensor = self.get_input_embeddings()(input_ids)
        counts = is_image.new_zeros(1, dtype=torch.long) if vision is None else _counts(vision, input_ids.device)
        room, given = is_image.sum(1).cumsum(0), counts.cumsum(0)
        if room[-1] != given[-1] or not torch.isin(room, F.pad(given, (1, 0))).all():
            raise SpecError(
                f"the prompts have room for {is_image.sum(1).tolist()} image tokens, the images give {counts.tolist()} "
                "of them; prepare both in one call of model.processor, with the n_tokens that the model is given"
            )
        if vision is None:
            return embeds
        features = vision.tokens.flatten(0, 1) if vision.mask is None else vision.tokens[vision.mask]
        return embeds.masked_scatter(is_image[..., None], features.to(embeds.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        vision_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        n_tokens: int | None = None,
        spatial_shapes: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> VisionLanguageOutput:
        """Computes logits, and the loss where there are labels.

        Args:
            input_ids: int64[B, L], ``image_token_id`` where a token of an image goes.
            pixel_values: float[images, 3, H, W], in the order of the prompts.
            vision_tokens: Encoder output float[images, N, D] in place of ``pixel_values``.
            vision_mask: bool[images, N], where ``vision_tokens`` is a bare tensor.
            attention_mask: int64[B, L], 0 on padding; without it, and with ``position_ids`` that begin anew, rows are
                packed sequences that do not see each other.
            position_ids: int64[B, L]; counted over real tokens by default.
            inputs_embeds: float[B, L, width], in place of ids and images.
            labels: int64[B, L], -100 where no loss is taken; shifted here.
            masks: float[M, h, w] in [0, 1] or bool, at the mask head's resolution: what the ``<SEG>`` in the labels
                stand for, row by row. Their BCE and Dice losses, means over the masks, are added to the text's.
            n_tokens: Tokens an image, for connectors with a budget.
            spatial_shapes: int64[images, 2] of variable-length encoders.
            pixel_attention_mask: bool[images, N] of variable-length encoders.
            logits_to_keep: Last positions, or the positions int64[P], whose logits are wanted; 0 is all.
            **kwargs: Further inputs of the language model: its cache, ``output_hidden_states``, ...

        Raises:
            SpecError: If prompts and images, or ``<SEG>`` and masks, do not fit each other.
        """
        is_mask = find_masks(self.mask_head, input_ids, labels, masks)
        seen = vision = None
        starts = None if attention_mask is not None or position_ids is None else position_ids == 0
        keeps_states = kwargs.get("output_hidden_states")
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        is_start = cache is None or cache.get_seq_length() == 0
        if inputs_embeds is None:
            if input_ids is None:
                raise SpecError("give a vision-language model input_ids or inputs_embeds")
            image_inputs = {"spatial_shapes": spatial_shapes, "pixel_attention_mask": pixel_attention_mask}
            seen = self.encode(pixel_values, vision_tokens, vision_mask, **image_inputs)
            vision = None if seen is None else self.connector(seen, n_tokens)
            if is_start or vision is not None:
                inputs_embeds = self.embed(input_ids, vision)
            else:  # a token that was written: it is a word, and every millisecond counts
                inputs_embeds = self.get_input_embeddings()(input_ids)
        if position_ids is None and attention_mask is not None and is_start:
            position_ids = positions_of(attention_mask)
        mask: Any = attention_mask
        if self.config.attention == "prefix" and is_start:
            mask = prefix_mask(self.llm.config, inputs_embeds, attention_mask, position_ids, cache, labels)
        if labels is not None or (attention_mask is None and position_ids is not None and cache is None):
            kwargs["use_cache"] = False  # transformers keeps packed sequences apart only without a cache
        targets = None
        num_items = kwargs.pop("num_items_in_batch", None)
        if labels is not None:  # only positions with a loss go through the head
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
            logits_to_keep = (targets != -100).any(0).nonzero()[:, 0]
            targets = targets[:, logits_to_keep]
        if is_mask is not None:
            kwargs["output_hidden_states"] = True
        output = self.llm(
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        found = {**output, "loss": None if targets is None else _cross_entropy(output.logits, targets, num_items)}
        if is_mask is not None:
            assert self.mask_head is not None
            assert input_ids is not None
            is_image = input_ids == self.config.image_token_id
            counts = None if vision is None else _counts(vision, input_ids.device)
            images = place_masks(is_mask, is_image, starts, counts)
            assert seen is not None  # else there is no image to place a mask on
            found["mask_logits"] = self.mask_head(output.hidden_states[-1][is_mask], seen.tokens[images])
            if masks is not None:
                assert targets is not None  # masks come with labels
                share = 1.0 if num_items is None else (targets != -100).sum() / num_items
                found["loss"] = found["loss"] + share * self.mask_head.loss(found["mask_logits"], masks)
            if not keeps_states:
                del found["hidden_states"]
        return VisionLanguageOutput(**found)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        *,
        vision_mask: Tensor | None = None,
        n_tokens: int | None = None,
        spatial_shapes: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continues prompts, never by an image token; images are encoded once, whatever the number of beams.

        Args:
            input_ids: int64[B, L] prompts, padded on the left.
            pixel_values: See ``forward``, as for the other inputs.
            vision_tokens: See ``forward``.
            vision_mask: See ``forward``.
            n_tokens: See ``forward``.
            spatial_shapes: See ``forward``.
            pixel_attention_mask: See ``forward``.
            **kwargs: ``attention_mask``, and fields of transformers' ``GenerationConfig``.

        Returns:
            int64[B, L + new] with the prompt, as ``GenerationMixin.generate`` gives it.
        """
        image_inputs = {"spatial_shapes": spatial_shapes, "pixel_attention_mask": pixel_attention_mask}
        vision = self.see(pixel_values, vision_tokens, vision_mask, n_tokens, **image_inputs)
        given = kwargs.pop("logits_processor", None) or []
        kwargs["logits_processor"] = LogitsProcessorList([WordsOnly(self.config.image_token_id), *given])
        return super().generate(input_ids, inputs_embeds=self.embed(input_ids, vision), **kwargs)

    def ask(self, images: Any, prompts: str | Sequence[str], **options: Any) -> list[Answer]:
        """Answers questions on images; see ``vislex.adapters.vlm_ask.ask``."""
        return ask(self, images, prompts, **options)

    def segment(self, images: Any, expressions: str | Sequence[str], **options: Any) -> list[Segmentation]:
        """Marks what expressions refer to; see ``vislex.adapters.vlm_segment.segment``."""
        return segment(self, images, expressions, **options)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *args: Any,
        state_dict: dict[str, Tensor] | None = None,
        standalone: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves weights (safetensors), config, processor and a model card.

        An encoder or language model that is frozen and still holds the very weights of its source is saved by
        reference; all else by value.

        Args:
            save_directory: Folder.
            *args: See ``PreTrainedModel.save_pretrained``.
            state_dict: Weights to save instead of the model's own.
            standalone: Whether to save every part by value.
            **kwargs: See ``PreTrainedModel.save_pretrained``.
        """
        self.config.parts = record_parts(self, standalone=standalone)
        referenced = tuple(f"{part}." for part in self.config.parts if self.config.saved_by_reference(part))
        state_dict = self.state_dict() if state_dict is None else state_dict
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith(referenced)}
        super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)
        (Path(save_directory) / "README.md").write_text(vlm_card(self), encoding="utf-8")

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Ties as transformers does; that a checkpoint lacks a part that it only names is no fault of it."""
        awaited = self.config.saved_by_reference("llm")
        super().tie_weights(None if awaited else missing_keys, recompute_mapping)

    def load_references(self) -> None:
        """Fetches the encoder and the language model where the checkpoint only names them."""
        super().load_references()
        if self.config.saved_by_reference("llm"):
            load_llm_from_source(self)

    def get_input_embeddings(self) -> nn.Module:
        """Of the language model."""
        table: nn.Module = self.llm.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Of the language model."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Of the language model."""
        head: nn.Module = self.llm.get_output_embeddings()
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Of the language model."""
        self.llm.set_output_embeddings(value)

    def _set_generation(self, processor: VisionLanguageProcessor) -> None:
        """Answers end where the tokenizer or the language model says."""
        tokenizer, config = processor.tokenizer, self.generation_config
        own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        ends = dict.fromkeys(i for i in (tokenizer.eos_token_id, *own) if i is not None)
        config.eos_token_id = list(ends)
        config.pad_token_id = tokenizer.pad_token_id


def _counts(vision: VisionTokens, device: torch.device) -> Tensor:
    """Tokens of each image, int64[images]."""
    if vision.mask is not None:
        return vision.mask.sum(1)
    return torch.full(vision.tokens.shape[:1], vision.tokens.shape[1], device=device)


def _cross_entropy(logits: Tensor, targets: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Mean over the supervised tokens, or their sum over ``num_items`` where gradients are accumulated."""
    reduction = "mean" if num_items is None else "sum"
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction)
    return loss if num_items is None else loss / num_items
