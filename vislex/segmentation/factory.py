"""Mask codecs by name."""

from __future__ import annotations

from typing import Any

from vislex.errors import ConfigError
from vislex.registry import registry
from vislex.segmentation.codec import MaskCodec

__all__ = ["create_codec"]


def create_codec(name: str = "loc_seg", **options: Any) -> MaskCodec:
    """Builds a registered mask codec.

    Args:
        name: A name of ``vislex list codecs``.
        **options: Of the codec: ``tokenizer`` of loc_seg, ``grid`` of text_rle, ``points`` of polygon, ...

    Raises:
        UnknownNameError: If there is no such codec.
        ConfigError: If it knows no such option, or a value is not allowed.
    """
    entry = registry("codecs").get(name)
    try:
        codec: MaskCodec = entry.load()(**{**entry.options, **options})
    except TypeError as error:
        raise ConfigError(f"codec '{name}' does not take these options: {error}; see 'vislex info {name}'") from error
    return codec
