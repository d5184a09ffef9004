"""A training step on shapes: what it computes, what it keeps for backward, what its optimizer holds."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vislex.training.replay import Call
from vislex.training.shadow import Attention, RealNumbers, Saved, Shadow, Watch, storage_key
from vislex.training.sketch import Stage, optimizer_of

__all__ = ["Trace", "optimizer_bytes", "outline", "tensor_bytes", "trace_step"]


@dataclass(frozen=True)
class Trace:
    """One forward and backward of a batch.

    Attributes:
        flops: Operations of a (part, "forward" or "backward"); "" is what lies in no part.
        calls: Every call of an operator.
        activations: Bytes that are saved for backward.
        copies: Bytes of parameters in the number format that is computed in, where it is another.
        temporary: Bytes that are alive at the peak beyond activations, copies and gradients.
        reached: Parameters that have a gradient then; some of what is trained may have none.
    """

    flops: Mapping[tuple[str, str], int]
    calls: Sequence[Call]
    activations: int
    copies: int
    temporary: int
    reached: Sequence[nn.Parameter]
    total_flops: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_flops", sum(self.flops.values()))


@contextlib.contextmanager
def outline() -> Iterator[None]:
    """While open, networks are built of shapes alone, and batches too."""
    with torch.device("meta"), RealNumbers(), Shadow():
        yield


def trace_step(stage: Stage, samples: int, *, typical: bool = False, device: str = "cuda") -> Trace:
    """Runs a step of a stage that was built under ``outline``.

    Args:
        stage: The stage.
        samples: Of the batch.
        typical: Whether samples are as long as most are, not as long as any is.
        device: "cpu" or "cuda", whose attention kernels are taken.
    """
    sketch = stage.sketch
    networks = [sketch.model, *sketch.attached.values()]
    for own in networks:
        own._apply(_without_numbers)
    held = [tensor for own in networks for tensor in (*own.parameters(), *own.buffers())]
    parts: dict[str, nn.Module] = {**_called(sketch.attached)}
    parts |= _called(
        {row.part: sketch.model.get_submodule(row.part) for row in stage.plan.rows if row.part != "(rest)"}
    )
    watch = Watch(parts, held)
    saved = Saved(held, watch.copies)
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda own: watch.release(storage_key(own.grad)))
        for parameter in sketch.model.parameters()
        if parameter.requires_grad
    ]
    with outline(), watch, Attention(device), stage.computing():
        with saved.hooks:
            loss = stage.loss(samples, typical=typical)
        _backward(loss)
    for handle in handles:
        handle.remove()
    reached = [own for own in sketch.model.parameters() if own.grad is not None]
    sketch.model.zero_grad(set_to_none=True)
    copies = sum(watch.copies.values())
    flops: Counter[tuple[str, str]] = Counter()
    for (name, way), count in watch.flops.items():
        flops[(name.partition("|")[0], way)] += count
    return Trace(
        flops=flops,
        calls=watch.calls,
        activations=saved.bytes,
        copies=copies,
        temporary=max(0, watch.peak - saved.bytes - copies),
        reached=reached,
    )


def optimizer_bytes(stage: Stage, parameters: Sequence[nn.Parameter]) -> int:
    """Bytes of the optimizer's state after its first step, by making one on shapes.

    Args:
        stage: The stage.
        parameters: What it steps; those of the stage, or shards of them.
    """
    with outline():
        trained = list(parameters)
        optimizer = optimizer_of(stage.sketch, [{"params": trained}])
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        for parameter in trained:
            parameter.grad = None
        return sum(tensor_bytes(state.values()) for state in optimizer.state.values())


def tensor_bytes(values: object) -> int:
    """Bytes of the tensors among some values."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))  # type: ignore[attr-defined]


def _backward(loss: Tensor) -> None:
    """``loss.backward()``, which as a function of torch would leave the modes, where layers may run again."""
    start = torch.ones_like(loss)
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (start,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _without_numbers(tensor: Tensor) -> Tensor:
    return tensor.to("meta") if tensor.is_floating_point() else tensor


def _called(parts: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The parts, and what lies directly in them: lists are never called themselves, and some networks only by parts."""
    found = {}
    for name, module in parts.items():
        found[f"{name}|"] = module
        found |= {f"{name}|{inner}": child for inner, child in module.named_children()}
    return found
