"""LLaVA-NeXT (LLaVA-1.6): an image and its tiles, laid side by side as one map, unpadded, with a newline a row."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vislex.adapters.host_llava import strategy
from vislex.adapters.hosts import HostFamily, handed_over, rebuilt
from vislex.adapters.swap_plan import TowerPlan

__all__ = ["FAMILY", "LlavaNext", "pinpoints"]


class LlavaNext(HostFamily):
    """LLaVA-NeXT: any-res tiles, each a square map of tokens, two linear maps."""

    host = "LLaVA-NeXT"
    reads_layers = True
    drops_cls = True

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """Tiles get the encoder's image size: as many of them as before make an image."""
        plan.map_side(self.host)
        config.vision_feature_select_strategy = strategy(plan)
        if hasattr(config, "image_seq_length"):  # not in LLaVA-OneVision's
            config.image_seq_length = plan.n_tokens
        config.image_grid_pinpoints = pinpoints(config, plan)

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """The host's own image processor (it cuts tiles) at the encoder's size."""
        side = plan.spec.image_size[0]
        image_processor = handed_over(
            processor.image_processor,
            plan.spec,
            size={"height": side, "width": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=config.image_grid_pinpoints,
        )
        return rebuilt(
            processor,
            image_processor=image_processor,
            patch_size=side // plan.map_side(self.host),
            vision_feature_select_strategy=strategy(plan),
            num_additional_image_tokens=plan.n_prefix,
        )

    def notes(self, config: PreTrainedConfig, plan: TowerPlan) -> list[str]:
        """See ``HostFamily.notes``."""
        return ["the image as a whole is squashed into its tile, not padded"] if plan.spec.resize == "pad" else []


def pinpoints(config: PreTrainedConfig, plan: TowerPlan) -> list[list[int]]:
    """The host's sizes of images, ``[[height, width], ...]``, in as many tiles of the new size."""
    old, new = config.vision_config.image_size, plan.spec.image_size[0]
    return [[max(1, round(length / old)) * new for length in size] for size in config.image_grid_pinpoints]


FAMILY = LlavaNext()
