"""Training images in one uint8 array on disk: a suite's scenes are rendered once, not at every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from vislex.cache import cache_dir
from vislex.training.cache import array_on_disk, content_key, rows_digest

__all__ = ["cached_images", "normalize_images", "shift_images", "squash"]

PROBES = 16


class _Squashed(torch.utils.data.Dataset):
    """Images of a data set as uint8[H, W, 3]; picklable for worker processes."""

    def __init__(self, renderings: Sequence[Dataset], size: int) -> None:
        self.renderings = renderings
        self.size = size

    def __len__(self) -> int:
        return len(self.renderings[0])

    def __getitem__(self, row: int) -> np.ndarray:
        return squash(self.renderings[row % len(self.renderings)][row]["image"], self.size)


def squash(image: Image.Image, size: int) -> np.ndarray:
    """uint8[size, size, 3] of an image of any shape."""
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image, dtype=np.uint8)


def _stack(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images)


def cached_images(
    dataset: Dataset | Sequence[Dataset],
    size: int,
    *,
    folder: Path | None = None,
    provenance: dict[str, Any] | None = None,
    workers: int = 0,
) -> np.ndarray:
    """Renders a data set's column ``image``, or opens what an earlier call rendered.

    The key holds the plain rows, the provenance, and the pixels of a few probes, so that another size, style or
    renderer makes another array.

    Args:
        dataset: Rows with an ``image`` (PIL); or several data sets of the same rows, which differ in how they draw them
            and take turns.
        size: Side in pixels; other images are squashed to it.
        folder: Cache folder; None is ``<cache>/images``.
        provenance: What the images are made of (a suite's version and hashes).
        workers: Processes that render.

    Returns:
        uint8[N, size, size, 3], memory-mapped.
    """
    renderings = [dataset] if isinstance(dataset, Dataset) else list(dataset)
    squashed = _Squashed(renderings, size)
    count = len(squashed)
    probes = sorted({i * (count - 1) // (PROBES - 1) for i in range(PROBES)})
    describe = {
        "rows": rows_digest(renderings[0]),
        "size": size,
        "provenance": provenance,
        "probes": content_key({str(i): squashed[i].tobytes().hex() for i in probes}),
    }

    def fill(array: np.ndarray, _: Path) -> None:
        workers_used = workers if count >= 1000 else 0
        loader = DataLoader(squashed, batch_size=64, num_workers=workers_used, collate_fn=_stack)  # type: ignore[arg-type]
        for i, batch in enumerate(loader):
            array[64 * i : 64 * i + len(batch)] = batch

    target = (folder or cache_dir() / "images") / content_key(describe)[:32]
    images, _ = array_on_disk(target, shape=(count, size, size, 3), dtype=np.uint8, fill=fill, describe=describe)
    return images


def shift_images(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Moves each image by whole pixels and repeats its border.

    Args:
        images: uint8[B, H, W, 3].
        offsets: int64[B, 2], pixels down and right.
    """
    height, width = images.shape[1:3]
    rows = np.clip(np.arange(height) - offsets[:, :1], 0, height - 1)  # [B, H]
    columns = np.clip(np.arange(width) - offsets[:, 1:], 0, width - 1)  # [B, W]
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalize_images(images: np.ndarray, mean: float | Tensor = 0.5, std: float | Tensor = 0.5) -> Tensor:
    """float[B, 3, H, W] of uint8[B, H, W, 3]: scaled to [0, 1], then normalised."""
    pixels = torch.tensor(images).permute(0, 3, 1, 2).contiguous().float() / 255
    return (pixels - mean) / std
