"""Scorers; every scorer has an id and a version. Importing this package loads neither torch nor numpy."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "PairedInterval": "statistics",
    "bootstrap_bleu": "statistics",
    "exact_binomial_interval": "statistics",
    "load_extractor": "image_features",
    "load_reader": "reader",
    "paired_bootstrap": "statistics",
    "paired_ratio": "statistics",
    "score_bert": "bertscore",
    "score_captions": "captions",
    "score_captions_per_image": "captions",
    "score_clip": "clipscore",
    "score_diversity": "diversity",
    "score_factors": "factors",
    "score_frechet": "distances",
    "score_inception": "distances",
    "score_java": "java",
    "score_kernel": "distances",
    "score_pairs": "reconstruction",
    "verdict": "statistics",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
