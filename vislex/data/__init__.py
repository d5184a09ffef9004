"""Data sets with one schema a task, and safe readers of images and JSONL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_suite"]


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
