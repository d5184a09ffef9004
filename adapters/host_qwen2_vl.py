"""Qwen2-VL (arXiv 2409.12191): ``visual`` replaced as a whole, or loaded with the weights of another Qwen2-VL."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vislex.adapters.fixed_tower import FixedTower, with_tower
from vislex.adapters.qwen_tower import QwenHost

__all__ = ["FAMILY", "Qwen2VL"]


class SwappedQwen2VLConfig(Qwen2VLConfig):
    """Config of a Qwen2-VL with another tower."""

    model_type = "vislex_qwen2_vl"
    sub_configs_defaults = with_tower(Qwen2VLConfig, "vislex_qwen_tower")


class SwappedQwen2VL(FixedTower, Qwen2VLForConditionalGeneration):
    """Qwen2-VL with another tower."""

    config_class = SwappedQwen2VLConfig
    stock = Qwen2VLConfig
    smallest: ClassVar = {"depth": 1, "embed_dim": 8, "hidden_size": 8, "num_heads": 1}
    tower_path = "model.visual"


class Qwen2VL(QwenHost):
    """Qwen2-VL: any number of tokens, its own merger."""

    merger = "qwen2_vl"
    no_matter = frozenset({"hidden_size"})  # the merger's, which stays
    swapped_class: ClassVar[type[PreTrainedModel] | None] = SwappedQwen2VL


FAMILY = Qwen2VL()
