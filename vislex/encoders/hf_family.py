"""What a family of vision towers in transformers is: how it is built, what it takes and what its tokens are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from vislex.encoders.base import pair
from vislex.errors import SpecError
from vislex.specs import EncoderSpec, Grid

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """One family of towers.

    Attributes:
        n_prefix: Number of prefix tokens of a config.
        positions: How it takes other image sizes than its config's: "interpolate" by the keyword
            ``interpolate_pos_encoding``, "any" by itself, "fixed" not at all.
        variable_length: Whether it is a NaFlex tower.
        masked: Whether it hides random patches (MAE); then none is hidden.
        global_output: Field of the output that holds the pooled descriptor.
        class_name: Class in transformers, where ``AutoModel`` does not know the tower by itself.
        key_mapping: Patterns of the names of weights in a whole image-text model, and what the tower calls them, where
            transformers does not know.
    """

    n_prefix: Callable[[PreTrainedConfig], int]
    positions: str = "interpolate"
    variable_length: bool = False
    masked: bool = False
    global_output: str = "pooler_output"
    class_name: str | None = None
    key_mapping: dict[str, str] | None = None

    def build(self, config: PreTrainedConfig) -> PreTrainedModel:
        """The tower with random weights."""
        if self.class_name is None:
            return AutoModel.from_config(config)
        tower: PreTrainedModel = getattr(transformers, self.class_name)._from_config(config)
        return tower

    def trimmed(self, tower: PreTrainedModel) -> PreTrainedModel:
        """A loaded tower without what an encoder has no use for."""
        return tower

    def prepare(self, config: PreTrainedConfig) -> None:
        """Changes what a config must not say in an encoder: MAE's mask ratio becomes 0."""
        if self.masked:
            config.mask_ratio = 0.0

    def spec(
        self, config: PreTrainedConfig, *, image_size: tuple[int, int] | None, resize: str | None, **values: Any
    ) -> EncoderSpec:
        """The encoder spec of a tower at an image size (default: the config's)."""
        patch = pair(config.patch_size)[0]
        if self.variable_length:
            if resize not in (None, "native"):
                raise SpecError(f"NaFlex towers keep the aspect ratio: resize must be 'native', not '{resize}'")
            side = int(config.num_patches**0.5)
            grid, size = Grid(side, side), (side * patch, side * patch)
            if image_size is not None:  # more or fewer patches than the position table: it is resampled anyway
                grid, size = Grid(image_size[0] // patch, image_size[1] // patch), image_size
        else:
            table = pair(config.image_size)
            size = image_size or table
            if size != table and self.positions == "fixed":
                raise SpecError(f"'{config.model_type}' takes images of {table} pixels only, not {size}")
            grid = Grid(size[0] // patch, size[1] // patch)
        if (size[0] % patch or size[1] % patch) and size != pair(getattr(config, "image_size", 0)):
            # SigLIP's So400m was trained so: 384 pixels, patches of 14, the last six rows and columns unseen.
            raise SpecError(f"image_size {size} is no multiple of the patch size {patch}")
        return EncoderSpec(
            dim=config.hidden_size,
            grid=grid,
            n_tokens=grid.height * grid.width,
            n_prefix=self.n_prefix(config),
            patch_size=patch,
            variable_length=self.variable_length,
            image_size=size,
            resize="native" if self.variable_length else resize or "squash",
            **values,
        )

    def arguments(
        self, config: PreTrainedConfig, pixel_values: Tensor, image_inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Keyword arguments of the tower's forward."""
        arguments: dict[str, Any] = {"pixel_values": pixel_values}
        if self.variable_length:
            return arguments | {key: image_inputs[key] for key in ("pixel_attention_mask", "spatial_shapes")}
        height, width = pixel_values.shape[-2:]
        if self.positions == "interpolate" and (height, width) != pair(config.image_size):
            arguments["interpolate_pos_encoding"] = True
        if self.masked:
            # MAE keeps the patches of smallest noise, in that order: rising noise keeps all of them in place.
            patch = pair(config.patch_size)
            count = (height // patch[0]) * (width // patch[1])
            arguments["noise"] = torch.arange(count, device=pixel_values.device).expand(len(pixel_values), -1)
        return arguments

    def tokens(self, config: PreTrainedConfig, tokens: Tensor, pixel_values: Tensor) -> Tensor:
        """A tower's hidden states as float[B, N, D], patches row by row."""
        return tokens

    def pooled(self, output: Any) -> Tensor | None:
        """Pooled descriptor of a tower's output."""
        return getattr(output, self.global_output, None)
