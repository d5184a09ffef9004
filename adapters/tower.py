"""``Tower``: any vislex encoder in the place of a host's vision tower, giving what towers of transformers give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vislex.encoders.base import VisionEncoder, kept_attention
from vislex.errors import SpecError
from vislex.hub import check_config, drop_unknown_keys
from vislex.specs import EncoderSpec, Grid, token_count

__all__ = ["Tower", "TowerConfig", "fixed_spec", "square_side"]


class TowerConfig(PreTrainedConfig):
    """Config of a ``Tower``: the encoder's, and under the usual names what hosts read of a vision config.

    Attributes:
        encoder_config: Config of the vision encoder.
        hidden_size: Width of a token.
        image_size: Pixels along the longer side of an image.
        patch_size: Hosts count ``(image_size // patch_size) ** 2`` tokens: so that this is their number where they are
            a square number, else ``image_size``.
        num_hidden_layers: 1: there is one layer to choose, the encoder's tokens.
        layer_norm_eps: For projectors that begin with a norm (Gemma 3).
        projection_dim: Width of the language model (PaliGemma).
    """

    model_type = "vislex_tower"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="vislex_hf")}  # noqa: RUF012

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    hidden_size: int = 768
    image_size: int = 224
    patch_size: int = 224
    num_channels: int = 3
    num_hidden_layers: int = 1
    layer_norm_eps: float = 1e-6
    projection_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuses what no checkpoint may carry: hosts build this config without ``from_dict``.

        Raises:
            CheckpointError: See ``vislex.hub.check_config``.
        """
        import vislex.auto  # noqa: F401  (the nested model types must be known)

        nested = {"encoder_config": self.encoder_config} if isinstance(self.encoder_config, dict) else {}
        check_config({"model_type": self.model_type, **nested, **kwargs}, where="vision_config")
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, encoder: VisionEncoder) -> TowerConfig:
        """The config of a tower that holds an encoder."""
        spec = fixed_spec(encoder.spec)
        side = square_side(spec)
        image_size = max(spec.image_size)
        with kept_attention(encoder):
            return cls(
                encoder_config=encoder.config,
                hidden_size=spec.dim,
                image_size=image_size,
                patch_size=image_size // side if side else image_size,
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what ``__post_init__`` would refuse."""
        import vislex.auto  # noqa: F401

        return drop_unknown_keys(super().to_dict())


class Tower(PreTrainedModel):
    """A vislex encoder as a host's vision tower.

    Hosts give images of one size and count their tokens before they see them: an encoder of variable length (NaFlex)
    is held to one map of patches, see ``fixed_spec``.
    """

    config_class = TowerConfig
    config: TowerConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: TowerConfig, encoder: VisionEncoder | None = None) -> None:
        super().__init__(config)
        self.encoder: VisionEncoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
        self.post_init()

    @property
    def spec(self) -> EncoderSpec:
        """What the host sees of the encoder."""
        return fixed_spec(self.encoder.spec)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: float[B, 3, H, W] of the spec's size.
            **kwargs: What hosts ask of their towers (``output_hidden_states``, ...): all there is, is always given.

        Returns:
            ``last_hidden_state`` float[B, N, D]: the encoder's tokens, without prefix tokens; ``hidden_states``: the
            same alone, so that every layer that a host may choose is this one; ``pooler_output``.
        """
        pixel_values = pixel_values.to(self.dtype)
        inputs: dict[str, Any] = {}
        if self.encoder.spec.resize == "native":
            pixel_values, inputs = self._patches(pixel_values)
        vision = self.encoder(pixel_values, **inputs)
        return BaseModelOutputWithPooling(
            last_hidden_state=vision.tokens, pooler_output=vision.pooled, hidden_states=(vision.tokens,)
        )

    def get_input_embeddings(self) -> None:
        """None: pixels have no embedding table."""
        return

    def _patches(self, pixel_values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images cut up as NaFlex processors do: float[B, N, patch ** 2 * 3], and their shapes and masks."""
        patch = self.encoder.spec.patch_size or 1
        batch, channels, height, width = pixel_values.shape
        if (height, width) != self.spec.image_size:
            raise SpecError(f"this tower takes images of {self.spec.image_size} pixels, got {(height, width)}")
        rows, columns = height // patch, width // patch
        cells = pixel_values.reshape(batch, channels, rows, patch, columns, patch)
        patches = cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)  # [B, N, patch * patch * 3]
        shapes = torch.tensor([[rows, columns]], device=pixel_values.device).expand(batch, 2)
        mask = torch.ones(batch, rows * columns, dtype=torch.int32, device=pixel_values.device)
        return patches, {"spatial_shapes": shapes, "pixel_attention_mask": mask}


def fixed_spec(spec: EncoderSpec) -> EncoderSpec:
    """The spec of an encoder that gets every image squashed to one size: NaFlex encoders are held to their map."""
    if spec.resize != "native":
        return spec
    patch = spec.patch_size or 1
    grid = Grid(spec.image_size[0] // patch, spec.image_size[1] // patch)
    counts: dict[str, Any] = {"grid": grid, "n_tokens": token_count(grid)} if spec.variable_length else {}
    size = (grid.height * patch, grid.width * patch)
    return spec.replace(image_size=size, resize="squash", variable_length=False, max_patches=None, **counts)


def square_side(spec: EncoderSpec) -> int | None:
    """Side of the square that tokens fill row by row, if hosts can compute it as ``image_size // patch_size``."""
    side = int(spec.n_tokens**0.5)
    image_size = max(spec.image_size)
    is_square = side * side == spec.n_tokens and (spec.grid is None or spec.grid == Grid(side, side))
    return side if is_square and side <= image_size and image_size // (image_size // side) == side else None
