"""``QwenTower``: any vislex encoder in the place of a Qwen-VL's ``visual``, with its merger inside.

Qwen-VL hosts take an image as rows, one a place of the map ``grid_thw``, and expect one feature for
``spatial_merge_size`` x ``spatial_merge_size`` of them. Here the map is that of the encoder's tokens, and its rows
together hold the image that the encoder takes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedConfig, SiglipImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPatchMerger
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    Qwen3VLVisionPatchMerger,
)

from vislex.adapters.grid_kwargs import GridImagesKwargs
from vislex.adapters.hosts import HostFamily, rebuilt
from vislex.adapters.swap_plan import TowerPlan
from vislex.adapters.tower import Tower, TowerConfig
from vislex.encoders.base import VisionEncoder
from vislex.errors import SpecError
from vislex.processing import create_image_processor

__all__ = ["GridImageProcessor", "QwenHost", "QwenTower", "QwenTowerConfig", "from_rows", "to_rows"]


class QwenTowerConfig(TowerConfig):
    """Config of a ``QwenTower``.

    Attributes:
        merger: Family of the host, whose merger it has.
        grid: Rows and columns of the map of tokens; one row where they form none.
        spatial_merge_size: Neighbours along a side that become one feature.
        out_hidden_size: Width of the language model; None: there is no merger yet.
        tokens_per_second: What Qwen2.5-VL's positions read for videos.
    """

    model_type = "vislex_qwen_tower"

    merger: str = "qwen2_vl"
    grid: list[int] | tuple[int, ...] = (1, 1)
    spatial_merge_size: int = 1
    out_hidden_size: int | None = None
    tokens_per_second: int = 4


class QwenTower(Tower):
    """A vislex encoder and a merger of the host's own class."""

    config_class = QwenTowerConfig
    config: QwenTowerConfig

    def __init__(self, config: QwenTowerConfig, encoder: VisionEncoder | None = None) -> None:
        super().__init__(config, encoder)
        if config.out_hidden_size is not None:
            self.merger = create_merger(config)
        self.deepstack_merger_list = nn.ModuleList()  # a part of Qwen3-VL, and empty
        self.post_init()

    @property
    def spatial_merge_size(self) -> int:
        """What hosts divide their counts by."""
        return self.config.spatial_merge_size

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            hidden_states: float[images * rows * columns, r], as ``to_rows`` gives them.
            grid_thw: int64[images, 3]: 1 and the config's ``grid``, for each.
            **kwargs: What hosts ask of their towers.

        Returns:
            ``last_hidden_state`` float[B, N, D], the encoder's tokens; ``pooler_output`` float[B * M, width], what the
            language model sees; ``deepstack_features``, which are zeros, for Qwen3-VL.

        Raises:
            SpecError: If these are no images of ``GridImageProcessor``, such as frames of a video.
        """
        height, width = self.config.grid
        expected = grid_thw.new_tensor([1, height, width])
        wanted = row_width(self.spec.image_size, self.config.grid)
        if not bool((grid_thw == expected).all()) or hidden_states.shape[-1] != wanted:
            raise SpecError(
                f"this host's encoder was swapped: it takes images alone, as its own processor gives them ({height} x "
                f"{width} rows of {wanted} values), no videos; got rows of {hidden_states.shape[-1]} and maps "
                f"{grid_thw.tolist()}"
            )
        tokens = super().forward(from_rows(hidden_states, self.spec.image_size, self.config.grid)).last_hidden_state
        merge = self.config.spatial_merge_size
        cells = tokens.unflatten(1, (height // merge, merge, width // merge, merge))
        grouped = cells.transpose(2, 3).flatten(0, 4)  # [B * N, D], neighbours one after the other
        merged = self.merger(grouped)
        if self.config.merger != "qwen3_vl":
            return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=merged)
        return BaseModelOutputWithDeepstackFeatures(  # zeros to add: beam search takes no empty list
            last_hidden_state=tokens, pooler_output=merged, deepstack_features=[torch.zeros_like(merged)]
        )


class GridImageProcessor(SiglipImageProcessor):
    """Images of one size as rows and ``image_grid_thw``, for hosts with a ``QwenTower``.

    Attributes:
        grid: See ``QwenTowerConfig``.
        merge_size: ``spatial_merge_size`` there.
    """

    valid_kwargs = GridImagesKwargs
    model_input_names = ["pixel_values", "image_grid_thw"]  # noqa: RUF012
    grid = (1, 1)
    merge_size = 1

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """``pixel_values`` float[images * rows * columns, r] and ``image_grid_thw`` int64[images, 3]."""
        kwargs["return_tensors"] = "pt"
        pixel_values = super().preprocess(images, *args, **kwargs)["pixel_values"]
        grid = torch.tensor([[1, *self.grid]]).expand(len(pixel_values), 3)
        return BatchFeature({"pixel_values": to_rows(pixel_values, self.grid), "image_grid_thw": grid.clone()})

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: Any = None) -> int:
        """Rows of an image, whatever its size."""
        return math.prod(self.grid)


class QwenHost(HostFamily):
    """What the families Qwen2-VL, Qwen2.5-VL and Qwen3-VL share: ``visual`` is replaced as a whole."""

    parts = {  # noqa: RUF012
        "encoder": ("model.visual",),
        "connector": ("model.visual.merger",),
        "llm": ("model.language_model", "lm_head"),
    }
    tower_class = QwenTower
    no_matter = frozenset({"out_hidden_size", "deepstack_visual_indexes"})
    image_processor_class = GridImageProcessor
    merger: str

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """See ``HostFamily.configure``."""
        grid, merge = plan.spec.grid or (1, plan.n_tokens), config.vision_config.spatial_merge_size
        vision: Any = plan.config
        vision.grid = list(grid)
        vision.spatial_merge_size = merge if not any(side % merge for side in grid) else 1
        vision.out_hidden_size = config.text_config.hidden_size
        vision.merger = self.merger

    def image_tokens(self, config: PreTrainedConfig, plan: TowerPlan) -> int:
        """Features after the merger."""
        return int(plan.n_tokens // config.vision_config.spatial_merge_size**2)

    def new_connector(self, old: nn.Module, config: PreTrainedConfig) -> nn.Module:
        """A merger of the host's class for the encoder's width."""
        return create_merger(config.vision_config)

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """An image processor that gives the encoder's images as rows."""
        base = create_image_processor(plan.spec).to_dict()
        base.pop("image_processor_type", None)
        vision = config.vision_config
        values = {"grid": list(vision.grid), "merge_size": vision.spatial_merge_size}
        return rebuilt(processor, image_processor=GridImageProcessor(**{**base, **values}))

    def notes(self, config: PreTrainedConfig, plan: TowerPlan) -> list[str]:
        """See ``HostFamily.notes``."""
        if plan.kind == "own":
            return []
        return [
            "images are squashed to one size, where this host took them in their own",
            "videos are refused: the encoder takes single images",
        ]


def create_merger(config: QwenTowerConfig) -> nn.Module:
    """The merger of a host's own class."""
    if config.merger == "qwen3_vl":
        return Qwen3VLVisionPatchMerger(config)
    merger = {"qwen2_vl": PatchMerger, "qwen2_5_vl": Qwen2_5_VLPatchMerger}[config.merger]
    return merger(config.out_hidden_size, config.hidden_size, config.spatial_merge_size)


def row_width(image_size: tuple[int, int], grid: Any) -> int:
    """Values of a row: those of an image shared out among the places of its map, rounded up."""
    return math.ceil(3 * image_size[0] * image_size[1] / math.prod(grid))


def to_rows(pixel_values: Tensor, grid: Any) -> Tensor:
    """Images float[B, 3, H, W] as float[B * rows * columns, r]; zeros fill the last row."""
    flat = pixel_values.flatten(1)
    rows, width = math.prod(grid), row_width(tuple(pixel_values.shape[-2:]), grid)
    padded = nn.functional.pad(flat, (0, rows * width - flat.shape[1]))
    return padded.reshape(-1, width)


def from_rows(rows: Tensor, image_size: tuple[int, int], grid: Any) -> Tensor:
    """The images float[B, 3, H, W] of ``to_rows``."""
    height, width = image_size
    flat = rows.reshape(-1, math.prod(grid) * rows.shape[-1])
    return flat[:, : 3 * height * width].unflatten(1, (3, height, width))
