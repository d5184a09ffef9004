"""Gemma 3 (arXiv 2503.19786): means of the cells of a square map, a norm, one matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from vislex.adapters.hosts import HostFamily, handed_over, rebuilt
from vislex.adapters.swap_plan import TowerPlan
from vislex.adapters.tower import square_side
from vislex.errors import SpecError

__all__ = ["FAMILY", "Gemma3"]


class Gemma3(HostFamily):
    """Gemma 3: a square number of tokens, pooled to no more than the host had, one matrix."""

    vision_fields = ("hidden_size", "image_size", "patch_size", "layer_norm_eps")

    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """A map is pooled by the smallest cell that gives no more tokens than before; other tokens are not pooled."""
        side = square_side(plan.spec)
        if side is None:
            raise SpecError(
                f"Gemma 3's connector arranges an image's tokens in a square, this encoder gives {plan.n_tokens}"
                f"{f' in a map of {tuple(plan.spec.grid)}' if plan.spec.grid else ''}; take an encoder with a square "
                "image, or a square number of tokens"
            )
        if plan.spec.grid is not None:
            side //= math.ceil(side / math.isqrt(config.mm_tokens_per_image))
        config.mm_tokens_per_image = side * side

    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """The host's own image processor (it counts crops) at the encoder's size."""
        height, width = plan.spec.image_size
        image_processor = handed_over(processor.image_processor, plan.spec, size={"height": height, "width": width})
        return rebuilt(processor, image_processor=image_processor, image_seq_length=config.mm_tokens_per_image)

    def new_connector(self, old: nn.Module, config: PreTrainedConfig) -> nn.Module:
        """transformers begins with a matrix of zeros, which shows no image at all; this one keeps its scale."""
        connector = type(old)(config)
        matrix = connector.mm_input_projection_weight
        with torch.no_grad():
            matrix.normal_(std=matrix.shape[0] ** -0.5)
        return connector

    def image_tokens(self, config: PreTrainedConfig, plan: TowerPlan) -> int:
        """See ``HostFamily.image_tokens``."""
        return int(config.mm_tokens_per_image)

    def notes(self, config: PreTrainedConfig, plan: TowerPlan) -> list[str]:
        """Rows and columns of the map that no cell holds, and padding."""
        side, cells = math.isqrt(plan.n_tokens), math.isqrt(config.mm_tokens_per_image)
        cell = side // cells
        notes = ["images are squashed, not padded"] if plan.spec.resize == "pad" else []
        if unseen := side - cells * cell:
            notes.append(f"cells of {cell} x {cell} tokens leave the last {unseen} rows and columns of the map unseen")
        return notes


FAMILY = Gemma3()
