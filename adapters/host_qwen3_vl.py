"""Qwen3-VL (arXiv 2511.21631): ``visual`` replaced as a whole, or loaded with the weights of another Qwen3-VL.

Its language model also adds features of inner layers of its tower to its first layers (DeepStack). A swapped tower has
none of them: those layers then see the image through their input alone.
"""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedConfig, PreTrainedModel, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vislex.adapters.fixed_tower import with_tower
from vislex.adapters.qwen_tower import QwenHost
from vislex.adapters.swap_plan import TowerPlan

__all__ = ["FAMILY", "Qwen3VL"]


class SwappedQwen3VLConfig(Qwen3VLConfig):
    """Config of a Qwen3-VL with another tower: the stock one reads any ``vision_config`` as its own."""

    model_type = "vislex_qwen3_vl"
    sub_configs_defaults = with_tower(Qwen3VLConfig, "vislex_qwen_tower")


class SwappedQwen3VL(Qwen3VLForConditionalGeneration):
    """Qwen3-VL with another tower."""

    config_class = SwappedQwen3VLConfig


class Qwen3VL(QwenHost):
    """Qwen3-VL: any number of tokens, its own merger, no DeepStack."""

    parts: ClassVar = {
        **QwenHost.parts,
        "connector": ("model.visual.merger", "model.visual.deepstack_merger_list"),
    }
    merger = "qwen3_vl"
    swapped_class: ClassVar[type[PreTrainedModel] | None] = SwappedQwen3VL

    def notes(self, config: PreTrainedConfig, plan: TowerPlan) -> list[str]:
        """See ``HostFamily.notes``."""
        if plan.kind == "own":
            return []
        deepstack = "DeepStack is off: the first layers of the language model get no features of inner layers"
        return [*super().notes(config, plan), f"{deepstack}, and should be retrained"]


FAMILY = Qwen3VL()
