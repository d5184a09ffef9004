"""Latency: time and throughput of captioners at several batch sizes, with the number of new tokens forced."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vislex import provenance
from vislex.benchmarks.caption_models import CaptionModel
from vislex.benchmarks.results import Run, Timing, content_key

__all__ = ["BATCH_SIZES", "measure"]

BATCH_SIZES = (1, 4, 16, 64)


def measure(
    model: CaptionModel,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    new_tokens: int = 20,
    repeats: int = 10,
    num_beams: int = 1,
    image_size: int = 64,
    seed: int = 0,
) -> Run:
    """Times a captioner end to end: preprocessing, image encoding, decoding and text.

    Every caption has exactly ``new_tokens`` new tokens, so that models with other weights do the same work.

    Args:
        model: Model to time.
        batch_sizes: Images a batch.
        new_tokens: Length of every caption in word pieces.
        repeats: Timed calls a batch size, after one that warms up; the median is reported.
        num_beams: Beams.
        image_size: Side of the noise images in pixels.
        seed: Of the noise images.

    Returns:
        A run whose ``table`` has a row a batch size.
    """
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (max(batch_sizes), image_size, image_size, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    settings: dict[str, Any] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "num_beams": num_beams}
    begun = time.perf_counter()
    table = []
    for batch_size in batch_sizes:
        batch = images[:batch_size]
        captions = model.caption(batch, batch_size=batch_size, **settings)
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            model.caption(batch, batch_size=batch_size, **settings)
            taken.append(time.perf_counter() - started)
        low, middle, high = (float(value) for value in np.quantile(taken, [0.25, 0.5, 0.75]))
        table.append(
            {
                "batch size": batch_size,
                "ms a batch": round(1000 * middle, 3),
                "quartiles": f"{1000 * low:.1f}–{1000 * high:.1f}",
                "captions a second": round(batch_size / middle, 2),
                "evaluations": float(np.mean([caption.evaluations for caption in captions])),
                "new tokens": new_tokens,
            }
        )
    dtype = str(model.dtype).removeprefix("torch.")
    settings |= {"repeats": repeats, "image_size": image_size}
    identity = {"task": "latency", "model": model.info.sha256, "row": model.info.row, "settings": settings}
    machine = provenance.collect(seed=seed, device=str(model.device), dtype=dtype)
    return Run(
        key=content_key({**identity, "batch_sizes": list(batch_sizes), "dtype": dtype, "time": machine["time"]}),
        task="latency",
        model=model.info,
        provenance=machine,
        generation=settings,
        n=repeats,
        timing=Timing(seconds=round(time.perf_counter() - begun, 3), batch_size=max(batch_sizes)),
        table=table,
    )
