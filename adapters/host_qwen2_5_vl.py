"""Qwen2.5-VL (arXiv 2502.13923): ``visual`` replaced as a whole, or loaded with the weights of another Qwen2.5-VL."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vislex.adapters.fixed_tower import FixedTower, with_tower
from vislex.adapters.qwen_tower import QwenHost

__all__ = ["FAMILY", "Qwen25VL"]


class SwappedQwen25VLConfig(Qwen2_5_VLConfig):
    """Config of a Qwen2.5-VL with another tower."""

    model_type = "vislex_qwen2_5_vl"
    sub_configs_defaults = with_tower(Qwen2_5_VLConfig, "vislex_qwen_tower")


class SwappedQwen25VL(FixedTower, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with another tower."""

    config_class = SwappedQwen25VLConfig
    stock = Qwen2_5_VLConfig
    smallest: ClassVar = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 8}
    tower_path = "model.visual"


class Qwen25VL(QwenHost):
    """Qwen2.5-VL: any number of tokens, its own merger."""

    merger = "qwen2_5_vl"
    swapped_class: ClassVar[type[PreTrainedModel] | None] = SwappedQwen25VL


FAMILY = Qwen25VL()
