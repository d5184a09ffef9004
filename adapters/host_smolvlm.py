"""SmolVLM 1 and 2 (arXiv 2504.05299): Idefics3's way with images, also for frames of videos."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedModel, SmolVLMConfig, SmolVLMForConditionalGeneration

from vislex.adapters.fixed_tower import FixedTower, with_tower
from vislex.adapters.host_idefics3 import SMALLEST, Idefics3

__all__ = ["FAMILY", "SmolVLM"]


class SwappedSmolVLMConfig(SmolVLMConfig):
    """Config of a SmolVLM with another tower."""

    model_type = "vislex_smolvlm"
    sub_configs_defaults = with_tower(SmolVLMConfig)


class SwappedSmolVLM(FixedTower, SmolVLMForConditionalGeneration):
    """SmolVLM with another tower."""

    config_class = SwappedSmolVLMConfig
    stock = SmolVLMConfig
    smallest = SMALLEST
    tower_path = "model.vision_model"
    connector_path = "model.connector"


class SmolVLM(Idefics3):
    """SmolVLM: a square number of tokens a tile, from square tiles. A SigLIP's weights fit its tower."""

    swapped_class: ClassVar[type[PreTrainedModel] | None] = SwappedSmolVLM
    same_weights = frozenset({"siglip_vision_model", "idefics3_vision"})


FAMILY = SmolVLM()
