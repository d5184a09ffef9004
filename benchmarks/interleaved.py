"""Timing several sides in turn, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["interleave"]


def interleave(sides: Sequence[Callable[[], Any]], runs: int) -> list[tuple[list[float], list[float]]]:
    """Wall and CPU seconds of each call of each side; call each once before, to warm it up.

    Every other round runs backwards, so that no side always has the same one before it.
    """
    seconds: list[tuple[list[float], list[float]]] = [([], []) for _ in sides]
    for number in range(runs):
        for side, (wall, cpu) in list(zip(sides, seconds, strict=True))[:: 1 if number % 2 == 0 else -1]:
            start, start_cpu = time.perf_counter(), time.process_time()
            side()
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
    return seconds
