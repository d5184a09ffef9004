"""Tokens of a frozen encoder, computed once and memory-mapped; any change of what they are made of is another file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from vislex.cache import cache_dir as user_cache
from vislex.encoders.base import VisionEncoder
from vislex.errors import ConfigError
from vislex.modules.digest import weights_digest
from vislex.specs import VisionTokens
from vislex.training.cache import array_on_disk, content_key, in_batches, rows_digest

__all__ = ["FeatureStore", "cached_features"]

FORMAT = 1
PROBES = 16
STORED = {torch.bfloat16: np.uint16, torch.float16: np.float16, torch.float32: np.float32}


@dataclass(frozen=True)
class FeatureStore:
    """Tokens of every row of a data set.

    Attributes:
        key: Hash of weights, preprocessing, rows, probes and data type.
        array: [N, T, D] memory-mapped; bf16 is stored as its bits in uint16.
        counts: int64[N] real tokens of each row; None if all are.
        dtype: What a batch is given in.
        was_cached: Whether it was there before the call.
    """

    key: str
    array: np.ndarray
    counts: np.ndarray | None
    dtype: torch.dtype
    was_cached: bool

    def __len__(self) -> int:
        return len(self.array)

    def tokens(self, rows: Sequence[int] | np.ndarray) -> VisionTokens:
        """Tokens [B, T, D] of rows int64[B]."""
        rows = np.asarray(rows, dtype=np.int64)
        values = torch.from_numpy(np.ascontiguousarray(self.array[rows]))
        if self.dtype == torch.bfloat16:
            values = values.view(torch.bfloat16)
        if self.counts is None:
            return VisionTokens(values)
        counts = torch.from_numpy(self.counts[rows])
        return VisionTokens(values, torch.arange(values.shape[1]) < counts[:, None])

    def __getitem__(self, row: int) -> VisionTokens:
        return self.tokens([row])


@torch.no_grad()
def cached_features(
    encoder: VisionEncoder,
    dataset: Dataset,
    image_processor: Any,
    *,
    cache_dir: Path | None = None,
    batch_size: int = 32,
    dtype: torch.dtype = torch.bfloat16,
    provenance: dict[str, Any] | None = None,
) -> FeatureStore:
    """Encodes a data set's images with a frozen encoder, or opens what an earlier call encoded.

    Args:
        encoder: Put into eval mode and left so.
        dataset: Rows with an ``image`` (PIL).
        image_processor: The encoder's; its settings are part of the key.
        cache_dir: Cache folder; None is ``<cache>/features``.
        batch_size: Images a forward; 32 stay in a CPU's cache and give the very values that 64 do.
        dtype: Stored type.
        provenance: What the images are made of (a suite's version and hashes).

    Raises:
        ConfigError: For a type that cannot be stored, or an empty data set.
    """
    if dtype not in STORED:
        raise ConfigError(f"features cannot be stored as {dtype}; use {', '.join(map(str, STORED))}")
    if not len(dataset):
        raise ConfigError("there are no images to encode: the data set has no rows")
    encoder.eval()
    probes = [i * (len(dataset) - 1) // (PROBES - 1) for i in range(PROBES)]
    describe = {
        "format": FORMAT,
        "weights": weights_digest(encoder),
        "spec": encoder.spec.to_dict(),
        "preprocessing": image_processor.to_dict(),
        "rows": rows_digest(dataset),
        "probes": content_key({str(i): _pixel_digest(dataset[i]["image"]) for i in probes}),
        "provenance": provenance,
        "dtype": str(dtype),
    }
    key = content_key(describe)
    root = user_cache() / "features" if cache_dir is None else Path(cache_dir)
    spec, device = encoder.spec, encoder.device

    def fill(array: np.ndarray, folder: Path) -> None:
        counts = np.full(len(dataset), spec.n_tokens, dtype=np.int64)
        for rows in in_batches(len(dataset), batch_size):
            inputs = image_processor(dataset[rows]["image"], return_tensors="pt").to(device)
            vision = encoder(**inputs)
            tokens = vision.tokens.to(dtype).cpu()
            stored = tokens.view(torch.uint16) if dtype == torch.bfloat16 else tokens
            array[rows, : tokens.shape[1]] = stored.numpy()
            if vision.mask is not None:
                counts[rows] = vision.mask.sum(dim=1).cpu().numpy()
        if spec.variable_length:
            np.save(folder / "counts.npy", counts)

    folder = root / key[:32]
    shape = (len(dataset), spec.n_tokens, spec.dim)
    array, found = array_on_disk(folder, shape=shape, dtype=STORED[dtype], fill=fill, describe=describe)
    counts = np.load(folder / "counts.npy") if spec.variable_length else None
    return FeatureStore(key, array, counts, dtype, found)


def _pixel_digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
