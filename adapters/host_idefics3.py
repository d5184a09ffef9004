"""Idefics3 (arXiv 2408.12637): square tiles of an image, their tokens joined by a pixel shuffle and one linear map."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Idefics3Config, Idefics3ForConditionalGeneration, PreTrainedConfig, PreTrainedModel

from vislex.adapters.fixed_tower import FixedTower, shuffle_factor, with_tower
from vislex.adapters.hosts import HostFamily, handed_over, rebuilt
from vislex.adapters.swap_plan import TowerPlan
from vislex.errors import SpecError

__all__ = ["FAMILY", "SMALLEST", "Idefics3"]

SMALLEST = {"hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 2}
SMALLEST["patch_size"] = 1


class SwappedIdefics3Config(Idefics3Config):
    """Config of an Idefics3 with another tower."""

    model_type = "vislex_idefics3"
    sub_configs_defaults = with_tower(Idefics3Config)


class SwappedIdefics3(FixedTower, Idefics3ForConditionalGeneration):
    """Idefics3 with another tower."""

    config_class = SwappedIdefics3Config
    stock = Idefics3Config
    smallest = SMALLEST
    tower_path = "model.vision_model"
    connector_path = "model.connector"


class Idefics3(HostFamily):
    """Idefics3: a square number of tokens a tile, from square tiles. A SigLIP's weights fit its tower."""

    parts: ClassVar = {
        "encoder": ("model.vision_model",),
        "connector": ("model.connector",),
        "llm": ("model.text_model", "lm_head"),
    }
    swapped_class: ClassVar[type[PreTrainedModel] | None] = SwappedIdefics3
    same_weights = frozenset({"siglip_vision_model", "smolvlm_vision"})

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """See ``HostFamily.configure``."""
        height, width = plan.spec.image_size
        if height != width:
            raise SpecError(
                f"this host cuts images into square tiles, this encoder takes {height} x {width} pixels; take one for "
                "square images, or another image_size"
            )
        config.scale_factor = shuffle_factor(plan, (4, 3, 2, 1)[4 - min(config.scale_factor, 4) :], "this host")

    def image_tokens(self, config: PreTrainedConfig, plan: TowerPlan) -> int:
        """Tokens of a tile after the pixel shuffle."""
        return int(plan.n_tokens // config.scale_factor**2)

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """Tiles of the encoder's size, as many along a side as before."""
        side = plan.spec.image_size[0]
        changes: dict[str, Any] = {"image_seq_len": self.image_tokens(config, plan)}
        for name in ("image_processor", "video_processor"):
            if (own := getattr(processor, name, None)) is not None:
                tiles = own.size["longest_edge"] / own.max_image_size["longest_edge"]
                sizes = {"size": {"longest_edge": round(tiles * side)}, "max_image_size": {"longest_edge": side}}
                changes[name] = handed_over(own, plan.spec, **sizes)
        return rebuilt(processor, **changes)


FAMILY = Idefics3()
