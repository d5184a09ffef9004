"""LLaVA-OneVision (arXiv 2408.03326): LLaVA-NeXT's tiles with a maximum of tokens, and videos at a quarter of them."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vislex.adapters.host_llava import strategy
from vislex.adapters.host_llava_next import LlavaNext
from vislex.adapters.hosts import handed_over, rebuilt
from vislex.adapters.swap_plan import TowerPlan

__all__ = ["FAMILY", "LlavaOnevision"]


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision: any-res tiles and videos, each a square map of tokens, two linear maps."""

    host = "LLaVA-OneVision"

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """The host's own image and video processors at the encoder's size."""
        size = dict(zip(("height", "width"), plan.spec.image_size, strict=True))
        tiles = {"size": size, "image_grid_pinpoints": config.image_grid_pinpoints}
        return rebuilt(
            processor,
            image_processor=handed_over(processor.image_processor, plan.spec, **tiles),
            video_processor=handed_over(processor.video_processor, plan.spec, size=size),
            vision_feature_select_strategy=strategy(plan),
            num_image_tokens=plan.n_tokens + plan.n_prefix,
        )


FAMILY = LlavaOnevision()
