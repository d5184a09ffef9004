"""``vislex plan``: what a training would need and take, before it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vislex.device_table import Device
from vislex.training.calibration import Rates
from vislex.training.costs import Cost
from vislex.training.memory import ENGINES, Memory, engine_memory
from vislex.training.recipe import Recipe
from vislex.training.settings import TrainingSettings, uses_bf16
from vislex.training.sketch import Stage
from vislex.training.trace import Trace, outline, trace_step

__all__ = ["PartCost", "Plan", "make_plans", "memory_here"]

USABLE = 0.92  # of an accelerator's memory: the rest is its context, kernels' workspace and fragmentation
# Shares of peak speed and of memory bandwidth that trainings reach, and seconds to launch a kernel: best and worst.
PRODUCTS, BANDWIDTH, LAUNCH = (0.7, 0.35), (0.9, 0.5), (3e-6, 12e-6)


@dataclass(frozen=True)
class PartCost:
    """One part in a plan.

    Attributes:
        part: Its name.
        mode: "frozen", "lora", "full", or "attached" for a frozen network beside the model.
        parameters: All of its parameters.
        trainable: Those that are trained.
        forward: Operations of a step's forward passes.
        backward: Operations of its backward passes.
    """

    part: str
    mode: str
    parameters: int
    trainable: int
    forward: int
    backward: int


@dataclass(frozen=True)
class Plan:
    """One stage of a training on some accelerators.

    Attributes:
        title: Recipe and stage.
        device: Name of the accelerator.
        gpus: How many.
        dtype: What is computed in.
        steps: Optimizer steps.
        batch_size: Samples a batch and accelerator.
        accumulation: Batches a step.
        parts: The parts.
        memory: Engine -> memory on one accelerator.
        capacity: Bytes that one accelerator has room for; None if unknown.
        largest_batch: Engine -> most samples a batch that fit; 0 if not even one does.
        engine: The simplest engine on which the batch fits, which the time is told for; None if it fits on none.
        flops: Operations of a step on one accelerator.
        seconds: Least and most seconds of a step, equal after a calibration; None if the machine is not known.
        hours: Of all steps.
        dollars: Of all accelerators for these hours.
        mfu: Share of the peak speed in these seconds, worst and best; None if the peak is not known.
        notes: What was assumed.
    """

    title: str
    device: str
    gpus: int
    dtype: str
    steps: int
    batch_size: int
    accumulation: int
    parts: Sequence[PartCost]
    memory: Mapping[str, Memory]
    capacity: int | None
    largest_batch: Mapping[str, int]
    engine: str | None
    flops: int
    seconds: tuple[float, float] | None
    hours: tuple[float, float] | None
    dollars: tuple[float, float] | None
    mfu: tuple[float, float] | None
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; memory with its totals."""
        memory = {engine: {**asdict(own), "total": own.total} for engine, own in self.memory.items()}
        return {**asdict(self), "memory": memory}


def make_plans(
    name: str,
    recipe: Recipe,
    settings: TrainingSettings,
    *,
    gpus: int = 1,
    device: Device | None = None,
    rates: Rates | None = None,
    price: float | None = None,
) -> Iterator[Plan]:
    """Plans each stage of a training.

    Args:
        name: Of the recipe.
        recipe: The recipe, which gives sketches.
        settings: Its configuration; "auto" precision is what the device is fast at.
        gpus: Accelerators.
        device: Row of the table; None is this machine.
        rates: Speed of this machine, measured; None tells a range from the table.
        price: US dollars an hour and accelerator; the table's by default.
    """
    assert recipe.sketch is not None
    bf16 = uses_bf16(settings) if device is None or settings.precision != "auto" else device.bf16 is not None
    settings = settings.model_copy(update={"precision": "bf16" if bf16 else "fp32"})
    where = "cuda" if device is not None or torch.cuda.is_available() else "cpu"
    with outline():
        sketches = list(recipe.sketch(settings))
    for sketch in sketches:
        stage = Stage(sketch, bf16=bf16)
        samples = sketch.settings.batch_size
        other = samples // 2 or 2
        longest, second = (trace_step(stage, count, device=where) for count in (samples, other))
        typical = longest if _alike(stage, samples) else trace_step(stage, samples, typical=True, device=where)
        memory = {engine: engine_memory(engine, stage, longest, gpus) for engine in ENGINES}
        capacity = int(device.memory_gib * 2**30) if device is not None else memory_here()
        each, start = _growth((samples, longest), (other, second))
        room = {name: USABLE * (capacity or 0) - own.fixed - start for name, own in memory.items()}
        largest = {} if capacity is None else {name: max(0, int(own // max(each, 1))) for name, own in room.items()}
        engine = next((own for own in ENGINES if largest.get(own, 0) >= samples), None)
        seconds = _seconds(stage, typical, memory[engine or "fsdp2"], engine or "fsdp2", gpus, device, rates)
        steps, accumulation = sketch.settings.steps, sketch.settings.gradient_accumulation
        hours = None if seconds is None else (seconds[0] * steps / 3600, seconds[1] * steps / 3600)
        paid = price if price is not None else None if device is None else device.price
        flops = typical.total_flops * accumulation
        peak = None if device is None else device.peak("bfloat16" if bf16 else "float32")
        yield Plan(
            title=f"{name}, {sketch.title}" if sketch.title else name,
            device="this machine" if device is None else device.name,
            gpus=gpus,
            dtype="bfloat16" if bf16 else "float32",
            steps=steps,
            batch_size=samples,
            accumulation=accumulation,
            parts=_parts(stage, typical, accumulation),
            memory=memory,
            capacity=capacity,
            largest_batch=largest,
            engine=engine,
            flops=flops,
            seconds=seconds,
            hours=hours,
            dollars=None if hours is None or paid is None else (hours[0] * gpus * paid, hours[1] * gpus * paid),
            mfu=None if seconds is None or peak is None else (flops / seconds[1] / peak, flops / seconds[0] / peak),
            notes=list(sketch.notes),
        )


def memory_here() -> int | None:
    """Bytes of this machine's first CUDA device, else of its main memory; None where neither can be told."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _alike(stage: Stage, samples: int) -> bool:
    """Whether typical batches have the shapes of the longest."""
    with outline(), torch.no_grad():
        shapes = [
            {key: getattr(value, "shape", value) for key, value in stage.sketch.batch(samples, typical).items()}
            for typical in (True, False)
        ]
    return shapes[0] == shapes[1]


def _growth(one: tuple[int, Trace], two: tuple[int, Trace]) -> tuple[float, float]:
    """Bytes that a sample adds, and those there are without any."""
    (n, a), (m, b) = one, two
    first, second = (own.activations + own.temporary for own in (a, b))
    each = (first - second) / (n - m)
    return each, max(0.0, first - each * n)


def _parts(stage: Stage, trace: Trace, accumulation: int) -> list[PartCost]:
    def flops(part: str) -> tuple[int, int]:
        name = "" if part == "(rest)" else part
        return trace.flops.get((name, "forward"), 0) * accumulation, trace.flops.get(
            (name, "backward"), 0
        ) * accumulation

    rows = [PartCost(row.part, row.mode, row.parameters, row.trainable, *flops(row.part)) for row in stage.plan.rows]
    if all(row.part != "(rest)" for row in rows) and any(flops("(rest)")):
        rows.append(PartCost("(rest)", "-", 0, 0, *flops("(rest)")))
    for name, own in stage.sketch.attached.items():
        rows.append(PartCost(name, "attached", sum(p.numel() for p in own.parameters()), 0, *flops(name)))
    return rows


def _seconds(
    stage: Stage, trace: Trace, memory: Memory, engine: str, gpus: int, device: Device | None, rates: Rates | None
) -> tuple[float, float] | None:
    accumulation = stage.sketch.settings.gradient_accumulation
    trained = sum(own.numel() * own.element_size() for own in stage.sketch.model.parameters() if own.requires_grad)
    touched = 2 * trained + memory.optimizer
    if device is None:
        if rates is None:
            return None
        found = rates.step_seconds(trace.calls, accumulation=accumulation, optimizer_bytes=touched)
        return found, found
    ends = []
    peak = device.peak("bfloat16" if stage.bf16 else "float32") or device.fp32
    sent = _sent(stage, engine, gpus) / device.link
    for best, (product, band, launch) in enumerate(zip(PRODUCTS, BANDWIDTH, LAUNCH, strict=True)):
        running = sum(_on_table(call.cost, product * peak, band * device.bandwidth) for call in trace.calls)
        batch = max(running, len(trace.calls) * launch)
        computing = accumulation * batch + 2 * touched / (band * device.bandwidth)
        ends.append(max(computing, sent) if best == 0 else computing + sent)  # hidden behind backward, or not at all
    return ends[0], ends[1]


def _on_table(cost: Cost, speed: float, bandwidth: float) -> float:
    return max(cost.flops / speed, cost.bytes / bandwidth)


def _sent(stage: Stage, engine: str, gpus: int) -> float:
    """Bytes that an accelerator sends in a step: a ring sends each byte (n - 1) / n times a pass."""
    if gpus == 1:
        return 0.0
    parameters = list(stage.sketch.model.parameters())
    trained = sum(own.numel() for own in parameters if own.requires_grad)
    size = 2 if stage.bf16 else 4
    ring = (gpus - 1) / gpus
    if engine in ("fsdp2", "zero3"):  # weights twice, gradients once
        gathered = 2 * size * sum(own.numel() for own in parameters) * stage.sketch.settings.gradient_accumulation
        return ring * (gathered + 4 * trained)
    return ring * 2 * (4 if engine == "ddp" else size) * trained
