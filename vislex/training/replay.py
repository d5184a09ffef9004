"""The operators of a step, each called alone on numbers of its shapes: how long it takes on this machine."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from vislex.training.costs import Cost, operator_cost

__all__ = ["Call", "call_seconds", "record", "wait"]

RUNS, ENOUGH = 5, 0.1  # calls of an operator that are timed, and seconds after which fewer are enough
KEPT = 2**20  # whole numbers of a tensor, which operators may look up by; those of a larger one are not kept
_PLACES = ("device", "generator", "pin_memory")


@dataclass(frozen=True)
class _Shape:
    """A tensor without its floats."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    numbers: Tensor | None

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}{list(self.stride)}"

    def filled(self, device: torch.device, dtype: torch.dtype | None) -> Tensor:
        """A tensor of this shape: whole numbers that are known; else zeros, true, or floats (of ``dtype``) 0 to 1."""
        if self.numbers is not None:
            return self.numbers.clone().to(device)
        extent = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True) if size)
        floats = self.dtype.is_floating_point or self.dtype.is_complex
        fill = torch.rand if floats else torch.ones if self.dtype == torch.bool else torch.zeros
        own = dtype if floats and dtype is not None else self.dtype
        return fill(extent, dtype=own, device=device).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        operator: Its overload.
        cost: What it costs.
        args: Its arguments, tensors by their shapes; empty if it costs nothing.
        kwargs: Those that are named.
    """

    operator: Any
    cost: Cost
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the operator, whatever its overload."""
        return str(self.operator._schema.name)

    @cached_property
    def key(self) -> str:
        """The same for calls that take the same time."""
        named = {name: value for name, value in self.kwargs.items() if name not in _PLACES}
        return f"{self.operator}{self.args}{named}"


def record(func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> Call:
    """``func(*args, **kwargs)``, which gave ``out``, as a call."""
    cost = operator_cost(func, args, kwargs, out)
    if cost.kind == "none":
        return Call(func, cost, (), {})
    return Call(func, cost, *tree_map_only(Tensor, _shape_of, (args, kwargs)))


def call_seconds(calls: Iterable[Call], device: torch.device, *, within: float = math.inf) -> dict[str, float]:
    """Seconds of calls by their keys: each the median of five after one to warm up, or of fewer if it takes long.

    Args:
        calls: The calls; equal ones are timed once, and what costs nothing is not.
        device: Where they run.
        within: Seconds after which no further one is begun.

    Returns:
        Seconds of those that have run: on shapes an operator may take what its kernel does not.
    """
    found: dict[str, float] = {}
    refused: set[str] = set()
    end = time.monotonic() + within
    with torch.no_grad(), torch.random.fork_rng():
        for call in calls:
            if call.cost.kind == "none" or call.key in found or call.key in refused:
                continue
            if time.monotonic() >= end:
                break
            for dtype in (None, _first_float(call)):
                with contextlib.suppress(RuntimeError, IndexError):
                    found[call.key] = _seconds(call, device, dtype)
                    break
            else:
                refused.add(call.key)
    return found


def wait(device: torch.device) -> None:
    """Until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _first_float(call: Call) -> torch.dtype | None:
    """Number format of its first floats; on shapes a bf16 layer norm has fp32 statistics, which no kernel takes."""
    shapes = (own for own in tree_leaves(call.args) if isinstance(own, _Shape))
    return next((own.dtype for own in shapes if own.dtype.is_floating_point), None)


def _seconds(call: Call, device: torch.device, dtype: torch.dtype | None) -> float:
    args, kwargs = tree_map_only(_Shape, lambda own: own.filled(device, dtype), (call.args, dict(call.kwargs)))
    if kwargs.get("device") is not None:
        kwargs["device"] = device
    call.operator(*args, **kwargs)
    spent: list[float] = []
    while len(spent) < RUNS and sum(spent) < ENOUGH:
        wait(device)
        begin = time.perf_counter()
        call.operator(*args, **kwargs)
        wait(device)
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent))


def _shape_of(tensor: Tensor) -> _Shape:
    floats = tensor.is_floating_point() or tensor.is_complex()
    known = not floats and tensor.device.type != "meta" and tensor.numel() <= KEPT
    numbers = tensor.detach().clone() if known else None
    return _Shape(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, numbers)
