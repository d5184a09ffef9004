"""Data sets with one schema a task, and safe readers of images and JSONL."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

_PUBLIC = {
    "JsonlWriter": "vislex.data.jsonl",
    "expand_images": "vislex.data.images",
    "load_dataset": "vislex.data.sources",
    "load_image": "vislex.data.images",
    "read_jsonl": "vislex.data.jsonl",
}

__all__ = sorted([*_PUBLIC, "load_suite"])


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that ``vislex.data`` alone loads nothing heavy."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vislex.data' has no attribute '{name}'")


def load_suite(name: str, task: str, **options: Any) -> Dataset:
    """Builds a data set of a suite.

    Args:
        name: A name of ``vislex list suites``, e.g. "openmoji".
        task: "caption", "vqa", "segmentation" or "images".
        **options: ``split``, ``size``, ``seed``, ``image_size``, ``vocabulary``, ``style``, ``augment``.

    Returns:
        Plain rows whose images and masks are rendered on access.

    Raises:
        UnknownNameError: For a suite, task, split, vocabulary or style that does not exist.
    """
    from vislex.registry import registry

    return registry("suites").get(name).load()(task, **options)
