"""From a spec to the stock transformers image processor that prepares images for its encoder. None ever crops."""

from __future__ import annotations

from typing import Any

from transformers import BaseImageProcessor, Siglip2ImageProcessor, SiglipImageProcessor
from transformers.image_utils import PILImageResampling

from vislex.errors import SpecError
from vislex.specs import EncoderSpec

__all__ = ["RESAMPLE", "create_image_processor"]

RESAMPLE = {
    "nearest": PILImageResampling.NEAREST,
    "bilinear": PILImageResampling.BILINEAR,
    "bicubic": PILImageResampling.BICUBIC,
    "lanczos": PILImageResampling.LANCZOS,
}


def create_image_processor(spec: EncoderSpec) -> BaseImageProcessor:
    """Builds the image processor of an encoder.

    - "squash" resizes to ``image_size``, whatever the aspect ratio.
    - "pad" resizes to fit into ``image_size`` and fills the rest, right and below, with the mean colour (zeros after
      normalisation).
    - "native" keeps the aspect ratio up to rounding to whole patches, with at most ``n_tokens`` patches (NaFlex); it
      also gives ``spatial_shapes`` and ``pixel_attention_mask``.

    Grey images become RGB; transparent ones are laid on white.

    Args:
        spec: Spec of the encoder.

    Returns:
        A processor whose call gives ``pixel_values`` float32[B, 3, H, W] (float32[B, n_tokens, 3 * patch_size ** 2]
        for "native").

    Raises:
        SpecError: If "native" is asked for an encoder of fixed length.
    """
    shared: dict[str, Any] = {
        "resample": RESAMPLE[spec.interpolation],
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "do_convert_rgb": True,
    }
    height, width = spec.image_size
    if spec.resize == "native":
        patches = spec.n_tokens if spec.variable_length else spec.max_patches
        if patches is None or spec.patch_size is None:
            raise SpecError("resize 'native' needs an encoder of variable length with patches; use 'squash' or 'pad'")
        return Siglip2ImageProcessor(patch_size=spec.patch_size, max_num_patches=patches, **shared)
    if spec.resize == "pad":
        return SiglipImageProcessor(
            size={"max_height": height, "max_width": width},
            do_pad=True,
            pad_size={"height": height, "width": width},
            **shared,
        )
    return SiglipImageProcessor(size={"height": height, "width": width}, **shared)
