"""Data sets with one schema a task, and safe readers of images and JSONL."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "JsonlWriter": "vislex.data.jsonl",
    "expand_images": "vislex.data.images",
    "load_image": "vislex.data.images",
    "load_suite": "vislex.data.sources",
    "read_jsonl": "vislex.data.jsonl",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``vislex.data`` alone loads nothing heavy."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vislex.data' has no attribute '{name}'")
