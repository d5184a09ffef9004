"""What ``align`` and ``sft`` would train: the model without its weights, and the shapes of its dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken

from vislex.adapters.chat import IMAGE_TOKEN
from vislex.adapters.connectors import create_connector
from vislex.adapters.llms import create_llm, embedding_rows, grow_vocabulary, load_llm_tokenizer
from vislex.adapters.mask_head import MaskHeadSettings
from vislex.adapters.turns import TurnBank
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_config import VisionLanguageConfig
from vislex.composite import join_configs
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError, VislexError
from vislex.hub import check_folder
from vislex.recipes.components import component, components
from vislex.recipes.vlm_data import load_source
from vislex.recipes.vlm_training import VlmSettings, with_mask_head
from vislex.registry import registry
from vislex.segmentation.factory import create_codec
from vislex.segmentation.seg_head import SEG_TOKEN, SegHeadCodec
from vislex.shipped import find_model
from vislex.specs import token_count
from vislex.text import load_tokenizer
from vislex.training.parts import PartSettings
from vislex.training.sketch import Sketch, vision_shapes

__all__ = ["sketch_vlm"]

SAMPLES = 200  # rows of each source that typical lengths are measured on


@dataclass(frozen=True)
class _Outline:
    """A model without weights; its tokenizer, where one is here; what was assumed."""

    model: VisionLanguageModel
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Dialogue:
    """Tokens of a dialogue: its text with one image token, those at its end that have a loss, and the first of these
    where it matters which it is."""

    text: int
    answer: int
    first: int | None = None


def sketch_vlm(config: VlmSettings, parts: Mapping[str, PartSettings], **attached: Any) -> Sketch:
    """The one stage of a vision-language training.

    Args:
        config: What is trained; where its ``model`` is not here yet, its other keys say what it will be made of.
        parts: How encoder, connector and language model are trained.
        **attached: Further fields of ``Sketch``.
    """
    folder = None if config.model is None else find_model(config.model)
    outline = _joined(config) if folder is None else _saved(folder)
    model = outline.model
    head = _mask_head(config, outline)
    typical, longest, told = _dialogues(config, model, outline.tokenizer, head)
    cached = config.cache_features and parts["encoder"].mode == "frozen"

    def batch(samples: int, is_typical: bool) -> dict[str, Any]:
        shape = typical if is_typical else longest
        if head is not None and model.mask_head is not None:
            shape = replace(shape, first=model.mask_head.settings.token_id)
        text = _packed if config.pack_length else _padded
        masks = {} if head is None else {"masks": torch.rand(samples, *head.frame.size)}
        return {
            **text(model, config, samples, shape),
            **vision_shapes(model.encoder, samples, cached=cached),
            **masks,
        }

    parts = with_mask_head(model, parts, trained=head is not None)
    return Sketch(config, model, parts, batch, notes=[*outline.notes, *told], **attached)


def _saved(folder: Path) -> _Outline:
    check_folder(folder)
    model = VisionLanguageModel(VisionLanguageConfig.from_pretrained(folder)).float()
    return _Outline(model, load_tokenizer(folder))


def _joined(config: VlmSettings) -> _Outline:
    notes = []
    if config.model is not None:
        notes.append(f"'{config.model}' is not here: planned from the keys encoder, connector and llm")
    encoder = create_encoder(config.encoder, tiny=config.tiny, **config.encoder_options)
    llm = create_llm(config.llm).float()
    entry, source = registry("llms").resolve(config.llm)
    hub_id = source or entry.options.get("hub_id")
    if entry.options.get("weights") or Path(str(hub_id)).is_dir():
        tokenizer = load_llm_tokenizer(config.llm)
        model = VisionLanguageModel.from_parts(
            encoder=encoder,
            connector=config.connector,
            llm=llm,
            tokenizer=tokenizer,
            attention=config.attention,
            **config.connector_options,
        )
        assert model.processor is not None
        return _Outline(model, model.processor.tokenizer, notes)
    # A published model, whose tokenizer is not needed: <image> stands behind its entries.
    entries = embedding_rows(llm) - 1
    if hub_id in components():
        entries = int(component(str(hub_id))["tokenizer"]["size"])
    else:
        notes.append(f"the tokenizer of '{config.llm}' is not known: {IMAGE_TOKEN} is taken to need no new row")
    grow_vocabulary(llm, entries + 1)
    connector = create_connector(
        config.connector, encoder.spec, llm.get_input_embeddings().weight.shape[1], **config.connector_options
    )
    made = {"encoder": encoder, "connector": connector, "llm": llm}
    own = join_configs(VisionLanguageConfig, made, image_token_id=entries, attention=config.attention)
    return _Outline(VisionLanguageModel(own, encoder, connector, llm), None, notes)


def _mask_head(config: VlmSettings, outline: _Outline) -> SegHeadCodec | None:
    """The codec of masks that a head learns; the model then has the head and its token. None: no head learns."""
    if all(source.task != "segmentation" for source in config.mixture):
        return None
    codec = create_codec(config.codec, **config.codec_options)
    if not isinstance(codec, SegHeadCodec):
        return None
    model, tokenizer = outline.model, outline.tokenizer
    if model.mask_head is None:
        token_id = embedding_rows(model.llm) if tokenizer is None else len(tokenizer)
        if tokenizer is not None:
            tokenizer.add_tokens([AddedToken(SEG_TOKEN, special=False, normalized=False)])
            token_id = tokenizer.convert_tokens_to_ids(SEG_TOKEN)
        grow_vocabulary(model.llm, token_id + 1)
        model.set_mask_head(MaskHeadSettings(token_id=token_id, **codec.head_options))
    assert model.mask_head is not None
    codec.frame = model.mask_head.frame
    return codec


def _dialogues(
    config: VlmSettings, model: VisionLanguageModel, tokenizer: Any, codec: SegHeadCodec | None
) -> tuple[_Dialogue, _Dialogue, Sequence[str]]:
    """Typical and longest dialogues of the mixture; ``max_length`` where its data or the tokenizer are not here."""
    whole = _Dialogue(config.max_length, config.max_length - 1)
    told = f"dialogues are taken at their longest, {config.max_length} tokens beside those of the image"
    if tokenizer is None:
        return whole, whole, [f"the tokenizer is not here: {told}"]
    try:
        groups = [
            group
            for source in config.mixture
            for group in load_source(
                source.model_copy(update={"size": min(source.size or SAMPLES, config.train_size or SAMPLES, SAMPLES)}),
                config.train_split,
                SAMPLES,
                codec,
            ).groups
        ]
    except (VislexError, OSError) as error:
        return whole, whole, [f"the mixture is not read here ({error}): {told}"]
    turns = [example.turns for group in groups for example in group]
    bank = TurnBank(
        turns, tokenizer, template=getattr(model.processor, "chat_template", None), max_length=config.max_length
    )
    lengths, answers = bank.lengths(1), [int(own.sum()) for own in bank.learned]
    at = int(lengths.argmax())
    typical = _Dialogue(round(float(lengths.mean())), max(1, round(sum(answers) / len(answers))))
    return typical, _Dialogue(int(lengths[at]), max(1, max(answers))), []


def _padded(model: VisionLanguageModel, config: VlmSettings, samples: int, shape: _Dialogue) -> dict[str, Tensor]:
    ids, labels = _sequence(model, shape)
    rows = ids.repeat(samples, 1)
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": labels.repeat(samples, 1)}


def _packed(model: VisionLanguageModel, config: VlmSettings, samples: int, shape: _Dialogue) -> dict[str, Tensor]:
    ids, labels = _sequence(model, shape)
    each = config.pack_length // len(ids)
    if each < 1:
        raise ConfigError(f"a dialogue of {len(ids)} tokens does not fit into pack_length={config.pack_length}")
    counts = [min(each, samples - begin) for begin in range(0, samples, each)]
    longest = max(counts) * len(ids)
    rows = torch.full((len(counts), longest), int(ids[-1]))
    targets, positions = torch.full_like(rows, -100), torch.zeros_like(rows)
    for row, count in enumerate(counts):
        end = count * len(ids)
        rows[row, :end], targets[row, :end] = ids.repeat(count), labels.repeat(count)
        positions[row, :end] = torch.arange(len(ids)).repeat(count)
        positions[row, end:] = torch.arange(longest - end)
    return {"input_ids": rows, "position_ids": positions, "labels": targets}


def _sequence(model: VisionLanguageModel, shape: _Dialogue) -> tuple[Tensor, Tensor]:
    """Ids and labels int64[L] of one dialogue on one image."""
    spec = model.connector.config.encoder_spec
    image = token_count(model.connector.config.count(spec.n_tokens if spec.variable_length else spec.count()))
    token = model.config.image_token_id
    ids = torch.full((image + shape.text - 1,), 1 if token != 1 else 2)
    ids[:image] = token
    labels = torch.full_like(ids, -100)
    if shape.first is not None:
        ids[-shape.answer] = shape.first
    labels[-shape.answer :] = ids[-shape.answer :]
    labels[:image] = -100
    return ids, labels
