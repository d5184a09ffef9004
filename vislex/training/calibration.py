"""How fast this machine is at the operators of a training, from a few real steps; what other steps then take.

Each operator's seconds are fitted as a start, so much an operation and so much a byte. What a whole step takes beyond
its operators (python, autograd) is shared out over its calls.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from vislex.data.jsonl import read_json
from vislex.errors import DataError
from vislex.training.costs import Cost, operator_cost
from vislex.training.files import write_whole
from vislex.training.sketch import Stage, optimizer_of
from vislex.training.trace import Trace, tensor_bytes

__all__ = ["STEPS", "Rates", "calibrate", "machine_name", "read_rates", "write_rates"]

STEPS = 3
LEAST = 4  # calls of an operator from which it gets rates of its own; others take those of their kind

Terms = tuple[float, float, float]


@dataclass(frozen=True)
class Rates:
    """Speed of a machine.

    Attributes:
        device: Its name.
        bf16: Whether it was measured in bf16.
        operators: Operator -> seconds a call, an operation, a byte.
        kinds: The same by kind ("product", "convolution", "memory").
        call: Seconds of a call beside its operator.
        overlaps: Whether calls are prepared while operators run (on a GPU).
        optimizer: Seconds a byte of weights, gradients and state of a step of the optimizer.
        measured_on: What was run.
    """

    device: str
    bf16: bool
    operators: Mapping[str, Terms]
    kinds: Mapping[str, Terms]
    call: float
    overlaps: bool
    optimizer: float
    measured_on: str
    seconds: Sequence[float] = field(default_factory=tuple)

    def step_seconds(self, trace: Trace, *, accumulation: int, optimizer_bytes: int) -> float:
        """Seconds of an optimizer step of traced batches.

        Args:
            trace: Of a batch.
            accumulation: Batches of a step.
            optimizer_bytes: Of weights and gradients that are trained, and of the optimizer's state.
        """
        running = sum(self._seconds(name, cost) for name, cost in trace.costs)
        calling = trace.calls * self.call
        batch = max(running, calling) if self.overlaps else running + calling
        return accumulation * batch + optimizer_bytes * self.optimizer

    def _seconds(self, name: str, cost: Cost) -> float:
        start, operation, byte = self.operators.get(name) or self.kinds.get(cost.kind) or self.kinds["memory"]
        return start + operation * cost.flops + byte * cost.bytes


class _Stopwatch(TorchDispatchMode):
    """Seconds of each operator."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.calls: list[tuple[str, Cost, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        _wait(self.device)
        begin = time.perf_counter()
        out = func(*args, **kwargs)
        _wait(self.device)
        seconds = time.perf_counter() - begin
        self.calls.append((func._schema.name, operator_cost(func, args, kwargs, out), seconds))
        return out


def calibrate(stage: Stage, samples: int, device: torch.device, *, measured_on: str) -> Rates:
    """Runs steps of a stage that was built on ``device``: one to warm up, three as a whole, one operator by operator.

    Args:
        stage: The stage; its weights are moved.
        samples: Of a batch.
        device: Where it lies.
        measured_on: What ``Rates`` remembers it by.
    """
    optimizer = optimizer_of(stage.sketch, stage.plan.groups)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
    whole, stepping = [], []
    with torch.device(device), attention, stage.computing():
        for step in range(1 + STEPS):
            begin = time.perf_counter()
            stage.loss(samples, typical=True).backward()
            _wait(device)
            middle = time.perf_counter()
            torch.nn.utils.clip_grad_norm_(trained, stage.sketch.settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _wait(device)
            if step:
                whole.append(middle - begin)
                stepping.append(time.perf_counter() - middle)
        with _Stopwatch(device) as watch:
            begin = time.perf_counter()
            stage.loss(samples, typical=True).backward()
            issued = time.perf_counter() - begin
    optimizer.zero_grad(set_to_none=True)
    state = sum(tensor_bytes(own.values()) for own in optimizer.state.values())
    operators, kinds = _fit(watch.calls)
    running = sum(seconds for _, _, seconds in watch.calls)
    overlaps = device.type != "cpu"
    outside = (issued - running if overlaps else float(np.median(whole)) - running) / len(watch.calls)
    return Rates(
        device=machine_name(device),
        bf16=stage.bf16,
        operators=operators,
        kinds=kinds,
        call=max(0.0, outside),
        overlaps=overlaps,
        optimizer=float(np.median(stepping)) / (2 * tensor_bytes(trained) + state),
        measured_on=measured_on,
        seconds=[own + rest for own, rest in zip(whole, stepping, strict=True)],
    )


def machine_name(device: torch.device) -> str:
    """What a device is called in files."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def write_rates(path: Path, rates: Rates) -> None:
    """Writes rates as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(rates), indent=1) + "\n")


def read_rates(path: Path) -> Rates:
    """Reads what ``write_rates`` wrote.

    Raises:
        DataError: If it is something else.
    """
    try:
        values = read_json(path)
        for name in ("operators", "kinds"):
            values[name] = {key: tuple(map(float, terms)) for key, terms in values[name].items()}
        return Rates(**values)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"'{path}' holds no rates of a machine ({error}); measure again with --calibrate") from error


def _fit(calls: Iterable[tuple[str, Cost, float]]) -> tuple[dict[str, Terms], dict[str, Terms]]:
    by_name: dict[str, list[tuple[Cost, float]]] = defaultdict(list)
    by_kind: dict[str, list[tuple[Cost, float]]] = defaultdict(list)
    for name, cost, seconds in calls:
        if cost.kind != "none":
            by_name[name].append((cost, seconds))
            by_kind[cost.kind].append((cost, seconds))
    operators = {name: _terms(own) for name, own in by_name.items() if len(own) >= LEAST}
    return operators, {kind: _terms(own) for kind, own in by_kind.items()}


def _terms(calls: Sequence[tuple[Cost, float]]) -> Terms:
    """Start, seconds an operation and a byte, none negative, that give the calls' seconds with the least error."""
    table = np.array([[1.0, cost.flops, cost.bytes] for cost, _ in calls])
    seconds = np.array([own for _, own in calls])
    scale = np.maximum(table.max(axis=0), 1.0)
    best, least = np.array([float(seconds.mean()), 0.0, 0.0]), float(((seconds - seconds.mean()) ** 2).sum())
    for columns in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
        chosen = list(columns)
        found = np.linalg.lstsq(table[:, chosen] / scale[chosen], seconds, rcond=None)[0]
        error = float(((table[:, chosen] / scale[chosen] @ found - seconds) ** 2).sum())
        if (found >= 0).all() and error < least:
            best, least = np.zeros(3), error
            best[chosen] = found / scale[chosen]
    return float(best[0]), float(best[1]), float(best[2])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
