"""vislex: join any vision encoder, connector, language model and caption decoder, and see whether it was worth it.

Importing this package loads neither torch nor transformers; the public names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Captioner": "vislex.captioner",
    "EncoderSpec": "vislex.specs",
    "Grid": "vislex.specs",
    "ViLex": "vislex.vilex",
    "VisionLanguageModel": "vislex.adapters.vlm",
    "VisionTokens": "vislex.specs",
    "VislexError": "vislex.errors",
    "create_codec": "vislex.segmentation.factory",
    "create_connector": "vislex.adapters.connectors",
    "create_decoder": "vislex.decoders.factory",
    "create_encoder": "vislex.encoders.factory",
    "create_image_processor": "vislex.processing",
    "create_llm": "vislex.adapters.llms",
    "list_encoders": "vislex.listing",
    "list_codecs": "vislex.listing",
    "list_decoders": "vislex.listing",
    "list_connectors": "vislex.listing",
    "list_hosts": "vislex.listing",
    "list_llms": "vislex.listing",
    "list_recipes": "vislex.listing",
    "list_scorers": "vislex.listing",
    "list_suites": "vislex.listing",
    "list_t2i": "vislex.listing",
    "load_t2i": "vislex.diffusion.t2i",
    "swap_encoder": "vislex.adapters.swap",
}
_MODULES = ("data", "metrics", "segmentation")

__all__ = sorted([*_PUBLIC, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"vislex.{name}")
    raise AttributeError(f"module 'vislex' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
