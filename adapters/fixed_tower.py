"""Hosts whose class builds a vision tower of one kind only: subclasses of them that hold a ``Tower``."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

from vislex.adapters.swap_plan import TowerPlan
from vislex.errors import SpecError
from vislex.specs import Grid

__all__ = ["FixedTower", "shuffle_factor", "with_tower"]


def with_tower(config_class: type[PreTrainedConfig], tower: str = "vislex_tower") -> dict[str, Any]:
    """``sub_configs_defaults`` of a host's config whose ``vision_config`` may be any, a ``Tower``'s by default."""
    return {**config_class.sub_configs_defaults, "vision_config": SubConfigSpec(AutoConfig, model_type=tower)}


class FixedTower(PreTrainedModel):
    """Mixed in before the host's class: lets it build the smallest tower of its kind, and puts the config's there.

    Attributes:
        stock: The host's own config class.
        smallest: Fields of the vision config of that tower.
        tower_path: Where the tower is.
        connector_path: Where the connector is, which is built again for the tower's width; None if it is inside.
    """

    stock: ClassVar[type[PreTrainedConfig]]
    smallest: ClassVar[dict[str, Any]]
    tower_path: ClassVar[str]
    connector_path: ClassVar[str | None] = None

    def __init__(self, config: Any) -> None:
        tower = config.vision_config
        config.vision_config = self.stock.sub_configs_defaults["vision_config"].config_class(**self.smallest)
        try:
            super().__init__(config)
        finally:
            config.vision_config = tower
        self.set_submodule(self.tower_path, AutoModel.from_config(tower))
        if self.connector_path is not None:
            connector = self.get_submodule(self.connector_path)
            self.set_submodule(self.connector_path, type(connector)(config))
        self.post_init()


def shuffle_factor(plan: TowerPlan, factors: tuple[int, ...], host: str) -> int:
    """How many neighbours along a side a host's pixel shuffle may join: the largest factor that divides the map.

    Tokens that form no map have no neighbours and are not joined.

    Args:
        plan: The tower.
        factors: What the host can do, the best first; 1 is among them.
        host: What an error calls it.

    Raises:
        SpecError: If the tokens are no square number.
    """
    grid = plan.spec.grid
    side = math.isqrt(plan.n_tokens)
    if side * side != plan.n_tokens or (grid is not None and grid != Grid(side, side)):
        given = f"a map of {grid.height} x {grid.width} tokens" if grid is not None else f"{plan.n_tokens} tokens"
        raise SpecError(
            f"{host} lays the tokens of an image out as a square; this encoder gives {given}; take one with a square "
            "map, another image_size, or a square number of tokens"
        )
    return next(factor for factor in factors if side % factor == 0) if grid is not None else 1
