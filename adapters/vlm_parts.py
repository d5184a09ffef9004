"""Towers and language models of a host as the parts of a ``VisionLanguageModel``, sharing their weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from vislex.encoders.base import mark_initialized, pair
from vislex.encoders.hf import HFEncoder
from vislex.errors import CheckpointError

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["encoder_around", "fill_host", "llm_around", "stock_tower"]


def encoder_around(
    tower: PreTrainedModel, preprocessing: dict[str, Any], *, layer: int | None = None, keep_prefix: bool = False
) -> HFEncoder:
    """An encoder whose backbone is a host's tower.

    Args:
        tower: The tower.
        preprocessing: Mean, std, interpolation and image size that the host's image processor states.
        layer: See ``HFEncoderConfig``.
        keep_prefix: See there.

    Raises:
        CheckpointError: If vislex does not know such towers, or the image processor gives another size.
    """
    stated = dict(preprocessing)
    size = stated.pop("image_size", None)
    if not {"mean", "std"} <= set(stated):
        raise CheckpointError("its image processor states no mean and std; the checkpoint is damaged")
    with torch.device("meta"):
        encoder = HFEncoder.from_backbone_config(tower.config, layer=layer, keep_prefix=keep_prefix, **stated)
    if encoder.family.variable_length:
        raise CheckpointError(f"its tower '{tower.config.model_type}' gives another number of tokens for each image")
    if size is not None and pair(size) != encoder.spec.image_size:
        raise CheckpointError(
            f"its image processor gives images of {pair(size)} pixels, its tower takes {encoder.spec.image_size}"
        )
    encoder.backbone = tower
    mark_initialized(encoder)
    return encoder.eval()


def llm_around(host: Any) -> PreTrainedModel:
    """The causal language model whose trunk and head are a host's.

    Raises:
        CheckpointError: If the causal model of this architecture has weights that a host has not.
    """
    config = copy.deepcopy(host.config.text_config)
    config.tie_word_embeddings = bool(host.config.tie_word_embeddings)
    with torch.device("meta"):
        llm: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    wanted = {name for name, _ in llm.named_parameters()}
    setattr(llm, llm.base_model_prefix, host.model.language_model)
    llm.set_output_embeddings(host.lm_head)
    found = {name for name, parameter in llm.named_parameters() if not parameter.is_meta}
    if other := sorted(wanted ^ found):
        raise CheckpointError(
            f"the weights of a '{config.model_type}' are not those of such hosts, the first that differs is {other[0]}"
        )
    llm.generation_config = copy.deepcopy(host.generation_config)
    mark_initialized(llm)
    return llm.eval()


def stock_tower(model: VisionLanguageModel) -> str | None:
    """Why the encoder of a model is no tower that a host can call as its own; None if it is."""
    encoder = model.encoder
    if not isinstance(encoder, HFEncoder):
        what = encoder.config.name or encoder.config.model_type
        return f"its encoder '{what}' is no tower of transformers ('hf:'); vislex.swap_encoder puts it into a host"
    own = encoder.backbone.config
    if encoder.family.variable_length or encoder.family.masked:
        return f"a '{own.model_type}' takes more than pixels"
    if encoder.spec.image_size != pair(own.image_size):
        return f"its encoder takes images of {encoder.spec.image_size} pixels, its tower was made for {own.image_size}"
    return None


def fill_host(host: Any, model: VisionLanguageModel) -> None:
    """Puts tower, trunk and head of a model into a host that was built without weights."""
    host.model.vision_tower = model.encoder.backbone
    host.model.language_model = model.llm.base_model
    host.lm_head = model.llm.get_output_embeddings()
    host.generation_config = copy.deepcopy(model.generation_config)
    host.generation_config.suppress_tokens = [model.config.image_token_id]
    mark_initialized(host)
