"""What every vision encoder is: a ``PreTrainedModel`` with a spec that turns pixels into ``VisionTokens``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from vislex.errors import SpecError
from vislex.specs import EncoderSpec, VisionTokens

__all__ = ["VisionEncoder", "VisionEncoderConfig"]


class VisionEncoderConfig(PreTrainedConfig):
    """Base of the encoders' configs; each family declares its own ``model_type`` ("vislex_<family>") and fields.

    Attributes:
        name: Name under which the encoder was created, e.g. "timm:vit_small_patch16_224" or "siglip-tiny".
        spec: ``EncoderSpec.to_dict()``.
        source: Where the weights came from, None if they were initialised at random:
            ``{"kind": "hub" | "package" | "weights" | "local", "location": str, "revision": str | None,
            "sha256": str | None}``.
    """

    model_type = "vislex_encoder"

    name: str | None = None
    spec: dict[str, Any] | None = None
    source: dict[str, Any] | None = None


class VisionEncoder(PreTrainedModel):
    """Base of the encoders: subclasses build ``backbone`` in ``__init__`` and implement ``forward`` and ``create``."""

    config_class = VisionEncoderConfig
    config: VisionEncoderConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""
    supports_gradient_checkpointing = True

    @property
    def spec(self) -> EncoderSpec:
        """Width, grid, token count and preprocessing of this encoder."""
        if self.config.spec is None:
            raise SpecError(f"{type(self).__name__} was built from a config without a spec; use vislex.create_encoder")
        return EncoderSpec.from_dict(self.config.spec)

    @classmethod
    def create(
        cls, source: str | None = None, *, pretrained: bool = False, tiny: bool = False, **options: Any
    ) -> VisionEncoder:
        """Builds the encoder for a registered name.

        Args:
            source: What stands behind a family's prefix ("vit_tiny_patch16_224" of "timm:vit_tiny_patch16_224"),
                None for a catalog name, whose ``options`` hold everything.
            pretrained: Whether to load weights; their own preprocessing values then win, a difference from
                ``options`` is an error.
            tiny: Whether to apply the row's ``tiny`` override: the same classes at a test's size.
            **options: Options of the catalog row, overridden by the caller's.
        """
        raise SpecError(f"{cls.__name__} does not implement create(); see CONTRIBUTING.md, 'Adding an encoder'")

    def forward(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """Encodes a batch of images.

        Args:
            pixel_values: float[B, 3, H, W], normalised by the spec's mean and std (float[B, N, p] for NaFlex).
            **image_inputs: What else the image processor gave (``spatial_shapes``, ``pixel_attention_mask``).

        Returns:
            Tokens float[B, N, D] without prefix tokens, their mask, and the pooled descriptor if there is one.
        """
        raise SpecError(f"{type(self).__name__} does not implement forward()")
