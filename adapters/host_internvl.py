"""InternVL 2.5, 3 and 3.5 (arXiv 2404.16821, 2504.10479): tiles of an image, a pixel shuffle, a norm and two maps."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedConfig, PreTrainedModel

from vislex.adapters.fixed_tower import shuffle_factor, with_tower
from vislex.adapters.hosts import HostFamily, handed_over, rebuilt
from vislex.adapters.swap_plan import TowerPlan

__all__ = ["FAMILY", "InternVL"]


class SwappedInternVLConfig(InternVLConfig):
    """Config of an InternVL with another tower: the stock one reads any ``vision_config`` as InternViT's."""

    model_type = "vislex_internvl"
    sub_configs_defaults = with_tower(InternVLConfig)


class SwappedInternVL(InternVLForConditionalGeneration):
    """InternVL with another tower."""

    config_class = SwappedInternVLConfig


class InternVL(HostFamily):
    """InternVL: a square number of tokens a tile."""

    reads_layers = True
    drops_cls = True
    swapped_class: ClassVar[type[PreTrainedModel] | None] = SwappedInternVL

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """See ``HostFamily.configure``; the shuffle counts in fractions, of which halves alone are exact."""
        factor = shuffle_factor(plan, (2, 1) if config.downsample_ratio < 1 else (1,), "InternVL")
        config.downsample_ratio = 1 / factor
        config.vision_feature_select_strategy = "full"
        config.image_seq_length = plan.n_tokens // factor**2

    def image_tokens(self, config: PreTrainedConfig, plan: TowerPlan) -> int:
        """Tokens of a tile after the pixel shuffle."""
        return int(plan.n_tokens * config.downsample_ratio**2)

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """Tiles of the encoder's size."""
        height, width = plan.spec.image_size
        changes: dict[str, Any] = {"image_seq_length": config.image_seq_length}
        for name in ("image_processor", "video_processor"):
            if (own := getattr(processor, name, None)) is not None:
                changes[name] = handed_over(own, plan.spec, size={"height": height, "width": width})
        return rebuilt(processor, **changes)


FAMILY = InternVL()
