"""What one operator of torch costs: operations of products and convolutions, bytes of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

__all__ = ["Cost", "Kind", "operator_cost", "tensors_in"]

Kind = Literal["product", "convolution", "memory", "none"]

_FREE = {"aten::detach", "aten::lift_fresh", "aten::alias", "aten::empty", "aten::empty_like", "aten::empty_strided",
         "aten::_local_scalar_dense", "aten::is_same_size", "aten::_unsafe_view", "aten::new_empty_strided",
         "aten::new_empty"}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Cost of one call.

    Attributes:
        kind: "product" (matrix products and fused attention), "convolution", "memory" (all that only moves), "none".
        flops: A multiplication and an addition are two.
        bytes: Read and written.
    """

    kind: Kind
    flops: int
    bytes: int


def operator_cost(func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> Cost:
    """The cost of ``func(*args, **kwargs)`` that gave ``out``, by shapes alone."""
    name = func._schema.name
    if func.is_view or name in _FREE:
        return Cost("none", 0, 0)
    moved = sum(_bytes(tensor) for tensor in tensors_in((args, kwargs, out)))
    formula = flop_registry.get(func._overloadpacket)
    if formula is None:
        return Cost("memory", 0, moved)
    flops = int(formula(*args, **kwargs, out_val=out))
    return Cost("convolution" if "convolution" in name else "product", flops, moved)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _bytes(tensor: Tensor) -> int:
    """Of memory that is touched: an expanded axis is there once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()
