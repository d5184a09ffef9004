"""What every vision encoder is: a ``PreTrainedModel`` with a spec that turns pixels into ``VisionTokens``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vislex.errors import ConfigError, SpecError
from vislex.specs import EncoderSpec, VisionTokens

__all__ = [
    "VisionEncoder",
    "VisionEncoderConfig",
    "check_variant",
    "flatten_map",
    "kept_attention",
    "mark_initialized",
    "pair",
]


class VisionEncoderConfig(PreTrainedConfig):
    """Base of the encoders' configs; each family declares its own ``model_type`` ("vislex_<family>") and fields.

    Attributes:
        name: Name under which the encoder was created, e.g. "timm:vit_small_patch16_224" or "siglip-tiny".
        spec: ``EncoderSpec.to_dict()``.
        source: Where the weights came from: ``{"kind": "hub" | "package" | "weights" | "local" | "fused", "location":
            str, "revision": str | None, "sha256": str | None}``, or ``{"kind": "untrained", "seed": int, "revision":
            version of torch, "sha256": ...}`` for random ones; None if nothing gives them again.
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
    _supports_sdpa = True

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
            tiny: Whether the same classes are built at a test's size; a catalog row's ``tiny`` override is in
                ``options`` already.
            **options: Options of the catalog row, overridden by the caller's.
        """
        raise SpecError(f"{cls.__name__} does not implement create(); see CONTRIBUTING.md, 'Adding an encoder'")

    def forward(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """Encodes a batch of images.

        Args:
            pixel_values: float[B, 3, H, W], normalised by the spec's mean and std (float[B, N, p] for NaFlex).
            **image_inputs: What else the image processor gave (``spatial_shapes``, ``pixel_attention_mask``).

        Returns:
            Tokens float[B, N, D] as the spec counts them (without prefix tokens unless it keeps them), their mask, and
            the pooled descriptor if there is one.
        """
        raise SpecError(f"{type(self).__name__} does not implement forward()")

    def init_weights(self) -> None:
        """Keeps the initialisation that the backbone gave itself.

        transformers would draw every linear and convolution again from N(0, 0.02), also when this encoder is built
        inside another model: conv nets then map all images to nearly zero, and an untrained baseline means nothing.
        """
        if not any(parameter.is_meta for parameter in self.parameters()):
            mark_initialized(self)
        self.tie_weights(recompute_mapping=False)

    def get_input_embeddings(self) -> nn.Module | None:
        """None: pixels have no embedding table."""
        return None

    def _check_size(self, pixel_values: Tensor) -> None:
        """Raises a ``SpecError`` where pixels float[B, 3, H, W] have not the spec's height and width."""
        if self.config.spec is not None and tuple(pixel_values.shape[-2:]) != tuple(self.config.spec["image_size"]):
            raise SpecError(
                f"{self.config.name or type(self).__name__} takes images of {tuple(self.config.spec['image_size'])} "
                f"pixels (height, width), got {tuple(pixel_values.shape)}; use vislex.create_image_processor(spec)"
            )


def mark_initialized(model: nn.Module) -> None:
    """Tells transformers that every module of ``model`` holds the weights it should hold."""
    for module in model.modules():
        module._is_hf_initialized = True


@contextmanager
def kept_attention(*parts: nn.Module) -> Iterator[None]:
    """While open, configs may be nested into a new one, which resets their attention implementation."""
    models = [module for part in parts for module in part.modules() if isinstance(module, PreTrainedModel)]
    implementations = [model.config._attn_implementation for model in models]
    yield
    for model, implementation in zip(models, implementations, strict=True):
        model.config._attn_implementation_internal = implementation


def flatten_map(features: Tensor) -> Tensor:
    """Rows of a map, one after the other: float[B, D, h, w] -> float[B, h * w, D]."""
    return features.flatten(2).transpose(1, 2)  # [B, h * w, D]


def check_variant(name: str, source: str | None, *, pretrained: bool, tiny: bool) -> None:
    """Refuses a tiny variant of a name that has none, and pretrained weights for a tiny variant.

    Raises:
        ConfigError: Saying which.
    """
    if tiny and source is not None:
        raise ConfigError(f"'{name}' has no tiny variant; only the exact names of 'vislex list encoders' have one")
    if tiny and pretrained:
        raise ConfigError(f"'{name}': a tiny variant has no pretrained weights; pass one of pretrained and tiny")


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of a side or of a sequence of two."""
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
