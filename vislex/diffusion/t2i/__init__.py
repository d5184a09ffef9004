"""Frozen text-to-image models of diffusers, one file a family; ``load_t2i`` opens a folder or hub id."""

from __future__ import annotations

from vislex.diffusion.t2i.base import Condition, TextToImage
from vislex.diffusion.t2i.loading import load_t2i

__all__ = ["Condition", "TextToImage", "load_t2i"]
