"""Arrays on disk that are computed once: memory-mapped, named by a hash of what they are made of."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from filelock import FileLock

__all__ = ["array_on_disk", "content_key", "in_batches", "rows_digest"]


def content_key(values: dict[str, Any]) -> str:
    """sha256 of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def rows_digest(dataset: Dataset) -> str:
    """sha256 of a data set's plain rows (what its transform makes of them is not part of it)."""
    digest = hashlib.sha256(json.dumps(dataset.column_names).encode())
    for batch in dataset.with_format(None).iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def in_batches(count: int, size: int) -> Iterator[list[int]]:
    """Consecutive positions below ``count`` in lists of at most ``size``."""
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))


def array_on_disk(
    folder: Path,
    *,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Callable[[np.ndarray, Path], None],
    describe: dict[str, Any],
) -> tuple[np.ndarray, bool]:
    """Opens ``folder`` read-only, after computing it if it is not there.

    ``fill`` gets the array to write and the folder it lies in, for small files that belong to it.

    The array is written beside and renamed when complete: a torn one is never seen. Of several processes of a machine
    that want the same array one computes it, and the others wait.

    Returns:
        The memory-mapped array, and whether it was there before.
    """
    if found := (folder / "array.npy").is_file():
        return np.load(folder / "array.npy", mmap_mode="r"), found
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = f"vislex-{content_key({'folder': str(folder.resolve())})[:16]}.lock"
    with FileLock(Path(tempfile.gettempdir()) / lock):
        if not (folder / "array.npy").is_file():
            _compute(folder, shape=shape, dtype=dtype, fill=fill, describe=describe)
    return np.load(folder / "array.npy", mmap_mode="r"), found


def _compute(
    folder: Path,
    *,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Callable[[np.ndarray, Path], None],
    describe: dict[str, Any],
) -> None:
    partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    array = np.lib.format.open_memmap(partial / "array.npy", mode="w+", dtype=dtype, shape=shape)
    fill(array, partial)
    array.flush()
    del array
    (partial / "meta.json").write_text(json.dumps(describe, indent=1, default=str), encoding="utf-8")
    partial.rename(folder)
