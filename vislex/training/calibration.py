"""How fast this machine runs the steps of a training, from a few real ones of another.

The operators of a step are timed each alone, at its shapes (``replay``). What a call takes beyond that in a step
(python, autograd, data that is no longer in the cache) is told by the steps of the other training. If it makes few
calls they tell little of it, so they are taken together with a guess from a network so small that it does little else.
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
from transformers import BertConfig, BertForMaskedLM

from vislex.data.jsonl import read_json
from vislex.errors import DataError
from vislex.hardware import resolve_device
from vislex.training.costs import Cost
from vislex.training.files import write_whole
from vislex.training.replay import Call, call_seconds, record, wait
from vislex.training.sketch import Stage, optimizer_of
from vislex.training.trace import tensor_bytes

__all__ = ["STEPS", "Rates", "calibrate", "machine_name", "read_rates", "write_rates"]

STEPS = 3
LEAST = 4  # calls of an operator from which it gets rates of its own; others take those of their kind
# Calls that would take longer (in seconds) or touch more are not run for a plan, and none after so many seconds in all:
# rates tell theirs.
LONGEST, LARGEST, ALTOGETHER = 0.25, 2**28, 20.0
TINY_STEPS = 20
# The guess: so many times what a call of the small network takes, whose data and code stay in the cache; it counts as
# much as so many calls.
COLD, GUESSED_CALLS = 4.0, 1000

Terms = tuple[float, float, float]


@dataclass(frozen=True)
class Rates:
    """Speed of a machine.

    Attributes:
        device: Its name.
        bf16: Whether it was measured in bf16.
        operators: Operator -> seconds a call, an operation, a byte, each called alone.
        kinds: The same by kind ("product", "convolution", "memory").
        call: Seconds of a call in a step beyond those of its operator alone.
        overlaps: Whether calls are prepared while operators run (on a GPU).
        optimizer: Seconds a byte of weights, gradients and state of a step of the optimizer.
        measured_on: What was run.
        seconds: Of its steps.
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

    def step_seconds(self, calls: Sequence[Call], *, accumulation: int, optimizer_bytes: int) -> float:
        """Seconds of an optimizer step; its operators are timed here and now, but for those that take very long.

        Args:
            calls: Of the forward and backward of a batch.
            accumulation: Batches of a step.
            optimizer_bytes: Of weights and gradients that are trained, and of the optimizer's state.
        """
        short = (own for own in calls if own.cost.bytes <= LARGEST and self._rated(own) <= LONGEST)
        longest_first = sorted(short, key=self._rated, reverse=True)
        alone = call_seconds(longest_first, resolve_device(), within=ALTOGETHER)
        running = sum(alone.get(own.key) or self._rated(own) for own in calls)
        calling = len(calls) * self.call
        batch = max(running, calling) if self.overlaps else running + calling
        return accumulation * batch + optimizer_bytes * self.optimizer

    def _rated(self, call: Call) -> float:
        """Seconds of a call alone, as those of its operator and kind were."""
        if call.cost.kind == "none":
            return 0.0
        start, operation, byte = self.operators.get(call.name) or self.kinds.get(call.cost.kind) or self.kinds["memory"]
        return start + operation * call.cost.flops + byte * call.cost.bytes


class _Recorder(TorchDispatchMode):
    """The calls of a real step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append(record(func, args, kwargs or {}, out))
        return out


def calibrate(stage: Stage, samples: int, device: torch.device, *, measured_on: str) -> Rates:
    """Runs steps of a stage that was built on ``device``: one to warm up, and three, each beside its operators alone.

    Args:
        stage: The stage; its weights are moved.
        samples: Of a batch.
        device: Where it lies.
        measured_on: What ``Rates`` remembers it by.
    """
    optimizer = optimizer_of(stage.sketch, stage.plan.groups)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    computing, stepping, alone = [], [], []
    with torch.device(device), _plain_attention(device), stage.computing():
        with _Recorder() as recorder:
            stage.loss(samples, typical=True).backward()
        optimizer.step()  # makes its state
        calls = recorder.calls
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            wait(device)
            begin = time.perf_counter()
            stage.loss(samples, typical=True).backward()
            wait(device)
            middle = time.perf_counter()
            torch.nn.utils.clip_grad_norm_(trained, stage.sketch.settings.max_grad_norm)
            optimizer.step()
            wait(device)
            stepping.append(time.perf_counter() - middle)
            computing.append(middle - begin)
            alone.append(call_seconds(calls, device))
    optimizer.zero_grad(set_to_none=True)
    state = sum(tensor_bytes(own.values()) for own in optimizer.state.values())
    running = [sum(own.get(every.key, 0.0) for every in calls) for own in alone]
    beyond = float(np.median(np.subtract(computing, running)))
    overlaps = device.type != "cpu"
    call = tiny = _calling_seconds(device)
    if not overlaps:
        guess = GUESSED_CALLS * COLD * tiny
        call = max(tiny, (beyond + guess) / (len(calls) + GUESSED_CALLS))
    operators, kinds = _fit(calls, alone)
    return Rates(
        device=machine_name(device),
        bf16=stage.bf16,
        operators=operators,
        kinds=kinds,
        call=call,
        overlaps=overlaps,
        optimizer=float(np.median(stepping)) / (2 * tensor_bytes(trained) + state),
        measured_on=measured_on,
        seconds=[own + rest for own, rest in zip(computing, stepping, strict=True)],
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


def _plain_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On a CPU, attention is the plain product, as in trainings."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def _calling_seconds(device: torch.device) -> float:
    """Seconds of a call beyond those of its operator alone, in steps of a network of a few numbers."""
    with torch.random.fork_rng(), torch.device(device), _plain_attention(device):
        model = BertForMaskedLM(
            BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=8, num_attention_heads=1, intermediate_size=4)
        )
        ids = torch.ones(1, 2, dtype=torch.int64)
        with _Recorder() as recorder:
            model(input_ids=ids, labels=ids).loss.backward()
        spent = []
        for _ in range(TINY_STEPS):
            model.zero_grad(set_to_none=True)
            wait(device)
            begin = time.perf_counter()
            model(input_ids=ids, labels=ids).loss.backward()
            wait(device)
            spent.append(time.perf_counter() - begin)
    if device.type != "cpu":
        return float(np.median(spent)) / len(recorder.calls)
    alone = call_seconds(recorder.calls, device)
    running = sum(alone.get(own.key, 0.0) for own in recorder.calls)
    return max(0.0, float(np.median(spent)) - running) / len(recorder.calls)


def _fit(calls: Iterable[Call], alone: Sequence[Mapping[str, float]]) -> tuple[dict[str, Terms], dict[str, Terms]]:
    by_name: dict[str, list[tuple[Cost, float]]] = defaultdict(list)
    by_kind: dict[str, list[tuple[Cost, float]]] = defaultdict(list)
    for call in calls:
        if call.key in alone[0]:
            measured = call.cost, float(np.median([own[call.key] for own in alone]))
            by_name[call.name].append(measured)
            by_kind[call.cost.kind].append(measured)
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
