"""Counter-based random numbers: the same key and index give the same draws on every machine and in every order.

Philox is a pure function of (key, counter). The key is a hash of the suite version, the seed, the split and the
stream's name; the counter is the row's index. Only raw 64-bit words are taken from numpy, whose stream is fixed;
every derived draw is defined here.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["SUITE_VERSION", "Draws", "stable_hash"]

SUITE_VERSION = "openmoji-v1"
_BLOCK = 64

T = TypeVar("T")


@functools.lru_cache(maxsize=65536)
def stable_hash(*parts: object) -> int:
    """A 64-bit integer from the text of the parts, the same on every machine (``hash`` is salted)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@functools.lru_cache(maxsize=1024)
def _key(*parts: object) -> np.ndarray:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


class Draws:
    """A stream of random draws that depends on its key and index alone.

    Args:
        *key: What names the stream, e.g. ``(seed, split, "scene")``.
        index: The row; any integer from 0 to 2**63.
    """

    def __init__(self, *key: object, index: int) -> None:
        counter = np.array([0, 0, index, 0], dtype=np.uint64)
        self._bits = np.random.Philox(key=_key(SUITE_VERSION, *key), counter=counter)
        self._words: list[int] = []

    def word(self) -> int:
        """The next 53-bit integer."""
        if not self._words:
            self._words = (self._bits.random_raw(_BLOCK) >> np.uint64(11)).tolist()[::-1]
        return self._words.pop()

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        return self.word() * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high), rounded to 4 decimals so that rows print and compare the same everywhere."""
        return round(low + (high - low) * self.unit(), 4)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def below(self, n: int) -> int:
        """Uniform integer in [0, n)."""
        return self.word() * n >> 53

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, uniformly."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of the items, with probability proportional to its weight."""
        target = self.unit() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            target -= weight
            if target < 0:
                return item
        return items[-1]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffles in place (Fisher-Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
