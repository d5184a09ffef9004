"""The OpenMoji suite: seeded data sets drawn in memory from two artists' SVGs, with the full factors of every image."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "attribution": "vislex.data.openmoji.sources",
    "contact_sheet": "vislex.data.openmoji.sheet",
    "load": "vislex.data.openmoji.suite",
    "nouns": "vislex.data.openmoji.manifest",
    "provenance": "vislex.data.openmoji.sources",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vislex.data.openmoji' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
