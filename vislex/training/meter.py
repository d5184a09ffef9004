"""What a training costs: images and tokens a second, where the time goes, peak memory, and the share of the peak speed.

The parts of a step are timed without waiting for the device: on CUDA by events that are read where the log is written.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vislex.device_table import device_by_cuda_name

__all__ = ["Meter", "MeterCallback", "batch_counts", "image_tokens_of", "join_spans", "peak_flops", "peak_memory"]

COUNTED = ("samples", "images", "text_tokens", "image_tokens")
TIMED = ("data", "forward", "step", "optimizer")  # forward and backward together are the step
AVERAGED = (*(f"{name}_per_second" for name in COUNTED), "data_wait", "forward", "backward", "optimizer", "mfu")


def peak_memory() -> int:
    """Peak memory in bytes: of the current CUDA device where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Peak FLOP/s of a device in "bfloat16" or "float32"; None for one that the table does not have, and for a cpu."""
    found = device_by_cuda_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if found is None else found.peak(dtype)


def image_tokens_of(model: Any) -> int | None:
    """Tokens that an image of full size gives in the model's encoder; None where it says nothing of it."""
    spec = getattr(getattr(model, "encoder", None), "spec", None)
    if spec is not None:
        return int(spec.n_tokens)
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    return None if vision is None else int(vision.image_size // vision.patch_size) ** 2


def batch_counts(
    batch: Mapping[str, Any], *, image_token_id: int | None = None, tokens_per_image: int | None = None
) -> dict[str, int | Tensor]:
    """Images, text tokens and image tokens of a batch, without padding.

    Args:
        batch: A model's keyword arguments.
        image_token_id: In a language model's ids, what stands for a token of an image.
        tokens_per_image: Of pixels, as ``image_tokens_of`` gives it.

    Returns:
        Numbers; int64[] where they lie on a device, so that nothing waits for it.
    """
    found = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    seen = found.get("vision_tokens", found.get("pixel_values"))
    counts: dict[str, int | Tensor] = {"images": 0 if seen is None else len(seen)}
    if (ids := found.get("input_ids")) is not None:
        mask = found.get("attention_mask")
        counts["text_tokens"] = ids.numel() if mask is None or mask.shape != ids.shape else mask.sum()
        if image_token_id is not None:
            counts["image_tokens"] = (ids == image_token_id).sum()
            counts["text_tokens"] = counts["text_tokens"] - counts["image_tokens"]
            return counts
    if "counts" in found:  # of a ViLex model
        counts["image_tokens"] = found["counts"].sum()
    elif "vision_mask" in found:
        counts["image_tokens"] = found["vision_mask"].sum()
    elif "vision_tokens" in found:
        counts["image_tokens"] = found["vision_tokens"].shape[:2].numel()
    elif tokens_per_image is not None:
        counts["image_tokens"] = int(counts["images"]) * tokens_per_image
    return counts


def join_spans(spans: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures of a time from those of its parts, as ``Meter.read`` gives them; parts without ``seconds`` do not count.

    Returns:
        Speeds and shares averaged over the time, the sum of ``seconds``, the highest ``peak_memory_mb``; nothing of no
        time.
    """
    measured = [span for span in spans if span.get("seconds")]
    seconds = sum(span["seconds"] for span in measured)
    told = [name for name in AVERAGED if any(name in span for span in measured)]
    figures = {name: sum(span.get(name, 0.0) * span["seconds"] for span in measured) / seconds for name in told}
    if measured:
        figures |= {"seconds": seconds, "peak_memory_mb": max(span.get("peak_memory_mb", 0.0) for span in measured)}
    return figures


class Meter:
    """Counts between two calls of ``read``; validation and saving are left out by ``paused``.

    Args:
        device: Where the training runs.
        peak: Peak FLOP/s of the device; None if it is not known: utilisation is then not told.

    Attributes:
        total_samples: Of all processes, up to the last read.
    """

    def __init__(self, device: torch.device | str = "cpu", peak: float | None = None) -> None:
        self.device, self.peak = torch.device(device), peak
        self.flops_per_sample: float | None = None
        self.total_samples = 0
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted since the last read."""
        self._start = time.perf_counter()
        self._paused = 0.0
        self._counts: dict[str, Tensor] = {}
        self._times = dict.fromkeys(TIMED, 0.0)
        self._events: list[tuple[str, Any, Any]] = []

    def begin(self) -> Any:
        """A moment in the work of the device, for ``end``."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def end(self, part: str, begun: Any) -> None:
        """Ends one of ``TIMED``."""
        now = self.begin()
        if self.device.type == "cuda":
            self._events.append((part, begun, now))
        else:
            self._times[part] += now - begun

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times one of ``TIMED``."""
        begun = self.begin()
        yield
        self.end(name, begun)

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._times["data"] += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    @contextmanager
    def counting_flops(self, samples: int) -> Iterator[None]:
        """Counts the operations of a first step, forward and backward, if the peak is known."""
        if self.peak is None or self.flops_per_sample is not None:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops_per_sample = counter.get_total_flops() / samples

    def add(self, counts: Mapping[str, int | Tensor]) -> None:
        """Counts what a finished step held, by the names of ``COUNTED``."""
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0) + torch.as_tensor(value, dtype=torch.int64)

    def read(self, over_processes: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Figures since the last read.

        Args:
            over_processes: Adds a tensor up over all processes.

        Returns:
            ``samples_per_second``, and ``images_``, ``text_tokens_`` and ``image_tokens_per_second`` where there are
            any, over all processes; shares of the time, 0 to 1: ``data_wait``, ``forward``, ``backward`` (with the
            exchange of gradients), ``optimizer``; ``seconds``; ``peak_memory_mb``; ``mfu``, 0 to 1, on a known device.
        """
        for part, begun, ended in self._events:
            ended.synchronize()
            self._times[part] += begun.elapsed_time(ended) / 1000
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        counted = torch.stack([torch.as_tensor(self._counts.get(name, 0)).to(self.device) for name in COUNTED])
        own = float(counted[0])
        counted = counted if over_processes is None else over_processes(counted)
        counts = dict(zip(COUNTED, counted.tolist(), strict=True))
        figures = {
            f"{name}_per_second": counts[name] / seconds for name in COUNTED if counts[name] or name == "samples"
        }
        times = {part: spent / seconds for part, spent in self._times.items()}
        figures |= {"data_wait": times["data"], "forward": times["forward"], "optimizer": times["optimizer"]}
        figures["backward"] = max(times["step"] - times["forward"], 0.0)
        figures["seconds"] = seconds
        figures["peak_memory_mb"] = peak_memory() / 2**20
        if self.peak is not None and self.flops_per_sample is not None:
            figures["mfu"] = own * self.flops_per_sample / seconds / self.peak
        self.total_samples += int(counts["samples"])
        self.restart()
        return figures


class MeterCallback(TrainerCallback):
    """Starts the meter with the training, and times the optimizer's part of a step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.meter.restart()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._begun = self.meter.begin()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.meter.end("optimizer", self._begun)
