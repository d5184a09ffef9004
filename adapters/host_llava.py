"""LLaVA and LLaVA-1.5 (arXiv 2310.03744): one hidden state of the tower, with or without its first token."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vislex.adapters.hosts import HostFamily, rebuilt
from vislex.adapters.swap_plan import TowerPlan
from vislex.processing import create_image_processor

__all__ = ["FAMILY", "Llava", "strategy"]


class Llava(HostFamily):
    """LLaVA: any number of tokens, two linear maps."""

    reads_layers = True
    drops_cls = True

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """See ``HostFamily.configure``."""
        config.vision_feature_select_strategy = strategy(plan)
        config.image_seq_length = plan.n_tokens

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """The processor counts ``(H // patch_size) * (W // patch_size) + num_additional_image_tokens``, less 1 for CLS.

        Where the tokens are no map of patches, the first term is made 0.
        """
        patch = plan.patch_size
        return rebuilt(
            processor,
            image_processor=create_image_processor(plan.spec),
            vision_feature_select_strategy=strategy(plan),
            patch_size=patch or max(plan.spec.image_size) + 1,
            num_additional_image_tokens=plan.n_prefix + (0 if patch else plan.n_tokens),
        )


def strategy(plan: TowerPlan) -> str:
    """LLaVA's name for dropping the first token ("default"), or none."""
    return "default" if plan.n_prefix else "full"


FAMILY = Llava()
