"""PaliGemma 1 and 2 (arXiv 2407.07726, 2412.03555): the tower's last state through one linear map."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vislex.adapters.hosts import HostFamily, rebuilt
from vislex.adapters.swap_plan import TowerPlan
from vislex.processing import create_image_processor

__all__ = ["FAMILY", "PaliGemma"]


class PaliGemma(HostFamily):
    """PaliGemma: any number of tokens, one linear map."""

    answer_type = 1

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """See ``HostFamily.configure``."""
        plan.config.projection_dim = config.projection_dim
        config.text_config.num_image_tokens = plan.n_tokens

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """The processor takes its count from the image processor."""
        image_processor = create_image_processor(plan.spec)
        image_processor.image_seq_length = plan.n_tokens
        return rebuilt(processor, image_processor=image_processor)


FAMILY = PaliGemma()
