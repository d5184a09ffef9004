"""The towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL as encoders of square images: patch tokens before the merger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.vision_utils import get_vision_window_index

from vislex.encoders.base import pair
from vislex.encoders.hf_family import Family
from vislex.errors import SpecError
from vislex.specs import EncoderSpec, Grid

__all__ = ["QwenFamily"]

DEFAULT_SIDE = 16  # merged tokens along a side: 448 pixels for patches of 14, 512 for patches of 16


@dataclass(frozen=True)
class QwenFamily(Family):
    """Towers that take flattened patches, block by block, and a map ``grid_thw`` for each image.

    The merger belongs to the language model: it is left out, as are DeepStack's.
    """

    def build(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See ``Family.build``."""
        if config.model_type != "qwen2_vl_vision":
            return self.trimmed(AutoModel.from_config(config))
        from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

        return self.trimmed(Qwen2VisionTransformerPretrainedModel._from_config(config))

    def trimmed(self, tower: PreTrainedModel) -> PreTrainedModel:
        """See ``Family.trimmed``."""
        tower.merger = nn.Identity()
        return tower

    def prepare(self, config: PreTrainedConfig) -> None:
        """See ``Family.prepare``."""
        if hasattr(config, "deepstack_visual_indexes"):
            config.deepstack_visual_indexes = []

    def spec(
        self, config: PreTrainedConfig, *, image_size: tuple[int, int] | None, resize: str | None, **values: Any
    ) -> EncoderSpec:
        """See ``Family.spec``; ``DEFAULT_SIDE`` blocks of patches along a side by default."""
        patch = pair(config.patch_size)[0]
        block = patch * config.spatial_merge_size
        size = image_size or (DEFAULT_SIDE * block, DEFAULT_SIDE * block)
        if size[0] % block or size[1] % block:
            raise SpecError(f"image_size {size} is no multiple of {block}, a block of patches")
        grid = Grid(size[0] // patch, size[1] // patch)
        return EncoderSpec(
            dim=getattr(config, "embed_dim", config.hidden_size),  # Qwen2-VL calls the merger's width hidden_size
            grid=grid,
            n_tokens=grid.height * grid.width,
            patch_size=patch,
            image_size=size,
            resize=resize or "squash",
            **values,
        )

    def arguments(
        self, config: PreTrainedConfig, pixel_values: Tensor, image_inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See ``Family.arguments``."""
        patch, merge = pair(config.patch_size)[0], config.spatial_merge_size
        rows, columns = (side // patch for side in pixel_values.shape[-2:])
        cells = pixel_values.unflatten(3, (columns // merge, merge, patch)).unflatten(2, (rows // merge, merge, patch))
        blocks = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, rows / m, columns / m, m, m, 3, p, p]
        frames = pair(config.temporal_patch_size)[0]
        patches = blocks.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1)
        return {
            "hidden_states": patches.reshape(len(pixel_values) * rows * columns, -1),
            "grid_thw": self._grids(pixel_values, patch),
        }

    def tokens(self, config: PreTrainedConfig, tokens: Tensor, pixel_values: Tensor) -> Tensor:
        """See ``Family.tokens``: out of windows and blocks, into rows."""
        patch, merge = pair(config.patch_size)[0], config.spatial_merge_size
        rows, columns = (side // patch for side in pixel_values.shape[-2:])
        if (window := getattr(config, "window_size", None)) is not None:
            index, _ = get_vision_window_index(
                self._grids(pixel_values, patch), spatial_merge_size=merge, window_size=window, patch_size=patch
            )
            tokens = tokens.unflatten(0, (-1, merge**2))[torch.argsort(index)].flatten(0, 1)
        blocks = tokens.unflatten(0, (len(pixel_values), rows // merge, columns // merge, merge, merge))
        return blocks.transpose(2, 3).flatten(1, 4)  # [B, N, D]

    def _grids(self, pixel_values: Tensor, patch: int) -> Tensor:
        """int64[B, 3]: 1, rows and columns of patches."""
        rows, columns = (side // patch for side in pixel_values.shape[-2:])
        return torch.tensor([[1, rows, columns]], device=pixel_values.device).expand(len(pixel_values), 3)
