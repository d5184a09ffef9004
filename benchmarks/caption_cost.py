"""What captions cost: the wall time of one at a time, and captions a second in batches, image encoding included."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vislex.benchmarks.caption_models import CaptionModel

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TimedCaption", "time_captions", "time_throughput"]


@dataclass(frozen=True)
class TimedCaption:
    """One caption at batch 1.

    Attributes:
        words: Its length.
        milliseconds: Its wall time.
        cpu_milliseconds: Its CPU time, of all threads: what still tells on a busy machine.
    """

    words: int
    milliseconds: float
    cpu_milliseconds: float


def time_captions(model: CaptionModel, images: Sequence[Image], **generation: Any) -> list[TimedCaption]:
    """Captions images one by one; the caller warms the model up."""
    timed = []
    for image in images:
        started, started_cpu = time.perf_counter(), time.process_time()
        made = model.caption([image], batch_size=1, **generation)
        wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
        timed.append(TimedCaption(len(made[0].text.split()), 1000 * wall, 1000 * cpu))
    return timed


def time_throughput(model: CaptionModel, images: Sequence[Image], batch_size: int, **generation: Any) -> float:
    """Captions a second in batches of one size, after one batch that warms up.

    Args:
        model: Model to time.
        images: At least one; they are repeated up to a whole batch, and cut to whole batches beyond it.
        batch_size: Images a batch.
        **generation: Options of ``model.caption``.
    """
    whole = max(1, len(images) // batch_size) * batch_size
    batch = [images[place % len(images)] for place in range(whole)]
    model.caption(batch[:batch_size], batch_size=batch_size, **generation)
    started = time.perf_counter()
    model.caption(batch, batch_size=batch_size, **generation)
    return whole / (time.perf_counter() - started)
