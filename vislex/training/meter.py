"""What a training costs: samples a second, the share of time spent waiting for data, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["Meter", "peak_memory"]


def peak_memory() -> int:
    """Peak memory in bytes: of the current CUDA device where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Meter:
    """Counts between two calls of ``read``; validation and saving are left out by ``paused``."""

    def __init__(self) -> None:
        self.total_samples = 0
        self.total_seconds = 0.0
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._samples = 0
        self._waited = 0.0
        self._paused = 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def add(self, samples: int) -> None:
        """Counts samples of a finished step."""
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Figures since the last read: samples_per_second, data_wait (0 to 1), peak_memory_mb."""
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        figures = {
            "samples_per_second": self._samples / seconds,
            "data_wait": self._waited / seconds,
            "peak_memory_mb": peak_memory() / 2**20,
        }
        self.total_samples += self._samples
        self.total_seconds += seconds
        self._restart()
        return figures
