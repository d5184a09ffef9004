"""Masks as text and back: codecs, the mask tokenizer, drawing. Importing this package loads nothing heavy."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Decoded": "codec",
    "MaskCodec": "codec",
    "MaskTokenizer": "mask_tokenizer",
    "Segment": "codec",
    "create_codec": "factory",
    "draw_masks": "overlay",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
