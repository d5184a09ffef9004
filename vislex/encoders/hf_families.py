"""The families of vision towers in transformers that ``hf:`` knows, by the exact ``model_type``."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vislex.encoders.hf_family import Family
from vislex.encoders.hf_qwen import QwenFamily
from vislex.errors import CheckpointError, did_you_mean

__all__ = ["FAMILIES", "family_of", "vision_config_of"]


def _none(config: PreTrainedConfig) -> int:
    return 0


def _cls(config: PreTrainedConfig) -> int:
    return 1


def _cls_and_registers(config: PreTrainedConfig) -> int:
    return 1 + config.num_register_tokens


def _summaries_and_registers(config: PreTrainedConfig) -> int:
    return config.num_cls_tokens + config.num_registers


_IN_MODEL = {r"^model\.vision_model\.": ""}
_VISUAL = {r"^(model\.)?visual\.": ""}

FAMILIES: dict[str, Family] = {
    "blip_vision_model": Family(_cls, class_name="BlipVisionModel", key_mapping={r"^vision_model\.": ""}),
    "idefics3_vision": Family(_none, positions="any", key_mapping=_IN_MODEL),
    "internvl_vision": Family(_cls, positions="any"),
    "siglip_vision_model": Family(_none),
    "siglip2_vision_model": Family(_none, positions="any", variable_length=True),
    "clip_vision_model": Family(_cls),
    "metaclip_2_vision_model": Family(_cls),
    "dinov2": Family(_cls, positions="any"),
    "dinov2_with_registers": Family(_cls_and_registers, positions="any"),
    "dinov3_vit": Family(_cls_and_registers, positions="any"),
    "aimv2_vision_model": Family(_none, positions="fixed"),
    "radio": Family(_summaries_and_registers, positions="any", global_output="summary"),
    "ijepa": Family(_none),
    "qwen2_5_vl_vision": QwenFamily(_none, key_mapping=_VISUAL),
    "qwen2_vl_vision": QwenFamily(_none, key_mapping=_VISUAL),
    "qwen3_vl_vision": QwenFamily(_none, key_mapping=_VISUAL),
    "smolvlm_vision": Family(_none, positions="any", key_mapping=_IN_MODEL),
    "vit": Family(_cls),
    "vit_mae": Family(_cls, masked=True),
}


def family_of(config: Any) -> Family:
    """The family of a tower's config.

    Raises:
        CheckpointError: If vislex does not know its ``model_type``.
    """
    model_type = getattr(config, "model_type", None) or "none"
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"model_type '{model_type}' is no vision tower that 'hf:' knows{did_you_mean(model_type, FAMILIES)} "
            f"Known: {', '.join(sorted(FAMILIES))}; many others are timm backbones ('timm:NAME')"
        )
    return FAMILIES[model_type]


def vision_config_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """The vision tower's config of a whole image-text model, or the config itself."""
    vision = getattr(config, "vision_config", None)
    return vision if config.model_type not in FAMILIES and isinstance(vision, PreTrainedConfig) else config
