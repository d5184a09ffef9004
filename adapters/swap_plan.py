"""``TowerPlan``: how an encoder becomes a host's vision tower, decided from the two configs alone."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedConfig, PreTrainedModel

from vislex.adapters.hosts import HostFamily
from vislex.adapters.tower import Tower, fixed_spec, square_side
from vislex.encoders.base import VisionEncoder, pair
from vislex.encoders.hf import HFEncoder
from vislex.errors import SpecError
from vislex.specs import EncoderSpec, Grid, token_count

__all__ = ["TowerPlan", "plan_tower"]

# Fields that change neither the shape of a tower's weights nor what it computes from them for a host.
_NO_MATTER = frozenset(
    {"attention_dropout", "initializer_range", "name", "projection_dim", "source", "spec", "vision_use_head"}
)


@dataclass(frozen=True)
class TowerPlan:
    """What a host will see in place of its vision tower.

    Attributes:
        kind: "own": the host's tower has this very architecture and takes the weights; "stock": a tower of
            transformers that the host can read by itself; "wrapped": a ``Tower``.
        config: The vision config.
        spec: Spec of the tokens, of fixed length and without prefix tokens.
        n_prefix: Prefix tokens that the tower leaves and the host drops.
        layer: ``vision_feature_layer`` of hosts that read one; None leaves it.
    """

    kind: Literal["own", "stock", "wrapped"]
    config: PreTrainedConfig
    spec: EncoderSpec
    n_prefix: int = 0
    layer: int | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens an image gives the host's connector."""
        return token_count(self.spec.count())

    @property
    def patch_size(self) -> int | None:
        """Pixels of a token's square, where height and width in whole squares are the map; else None."""
        grid, (height, width) = self.spec.grid, self.spec.image_size
        if grid is None:
            return None
        patch = height // grid.height
        return patch if Grid(height // patch, width // patch) == grid else None

    def map_side(self, host: str) -> int:
        """Side of the tokens' square map, for hosts that cut images into square tiles of them.

        Raises:
            SpecError: If the tokens form no such map.
        """
        spec = self.spec
        is_map = spec.grid is not None or spec.n_tokens == 1
        side = square_side(spec)
        if not is_map or side is None or spec.image_size[0] != spec.image_size[1]:
            grid = f"a map of {tuple(spec.grid)}" if spec.grid else f"{spec.n_tokens} tokens that form no map"
            raise SpecError(
                f"{host} lays the tokens of square tiles side by side and cuts off the padded rows and columns; this "
                f"encoder gives {grid} for {spec.image_size} pixels; take a square map of tokens, or one token"
            )
        return side


def plan_tower(family: HostFamily, host: PreTrainedModel, encoder: VisionEncoder) -> TowerPlan:
    """Decides how an encoder becomes the tower of a host.

    A tower of transformers stays what it is wherever the host reads just the tokens that the encoder's spec counts, so
    that the result opens without vislex.
    """
    now = host.config.vision_config
    layer = _layer(encoder)
    if _is_plain(encoder) and (layer is None or family.reads_layers):
        backbone: PreTrainedConfig = encoder.config.backbone_config
        spec, n_prefix = encoder.spec, encoder.spec.n_prefix
        if _fits(family, backbone, now) and spec.image_size == pair(getattr(now, "image_size", spec.image_size)):
            return TowerPlan("own", now, spec, n_prefix, layer)
        if family.swapped_class is None and _reads(family, encoder, backbone):
            config = copy.deepcopy(backbone)
            if family.reads_layers and layer is None and config.model_type != now.model_type:
                layer = -1
            return TowerPlan("stock", config, spec, n_prefix, layer)
    own = family.module(host, "encoder")
    if isinstance(own, Tower) and _same_architecture(encoder.config, own.encoder.config):
        return TowerPlan("own", now, fixed_spec(encoder.spec))
    config = family.tower_class.config_class.of(encoder)
    return TowerPlan("wrapped", config, fixed_spec(encoder.spec), layer=-1)


def _is_plain(encoder: VisionEncoder) -> bool:
    """Whether an encoder is nothing but a tower of transformers, without changes to what goes in and out."""
    if not isinstance(encoder, HFEncoder) or encoder.config.keep_prefix:
        return False
    family = encoder.family
    return not family.variable_length and not family.masked


def _reads(family: HostFamily, encoder: VisionEncoder, backbone: PreTrainedConfig) -> bool:
    """Whether a host reads the encoder's very tokens from its bare tower."""
    return (
        encoder.family.class_name is None  # AutoModel builds it
        and all(isinstance(getattr(backbone, field, None), int | float) for field in family.vision_fields)
        and encoder.spec.image_size == pair(backbone.image_size)
        and encoder.spec.n_prefix <= int(family.drops_cls)
        and square_side(encoder.spec) == backbone.image_size // backbone.patch_size
    )


def _layer(encoder: VisionEncoder) -> int | None:
    """The encoder's choice of a layer as an index into ``hidden_states``, whose first entry is the embedding."""
    layer: int | None = getattr(encoder.config, "layer", None)
    return layer + 1 if layer is not None and layer >= 0 else layer


def _fits(family: HostFamily, config: PreTrainedConfig, now: PreTrainedConfig) -> bool:
    """Whether a host's tower takes the weights of a tower with another config."""
    if config.model_type in family.same_weights:
        return _same_fields(config, now, family.no_matter)
    return _same_architecture(config, now, family.no_matter)


def _same_architecture(
    config: PreTrainedConfig, other: PreTrainedConfig, no_matter: frozenset[str] = frozenset()
) -> bool:
    return type(config) is type(other) and _same_fields(config, other, no_matter)


def _same_fields(config: PreTrainedConfig, other: PreTrainedConfig, no_matter: frozenset[str]) -> bool:
    shared = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    names = [field.name for field in dataclasses.fields(config) if field.name not in shared | _NO_MATTER | no_matter]
    return all(_equal(getattr(config, name), getattr(other, name)) for name in names)


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, PreTrainedConfig):
        return _same_architecture(value, other)
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):  # lists where a config was read from JSON
        return list(value) == list(other)
    return bool(value == other)
