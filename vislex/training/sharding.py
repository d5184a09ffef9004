"""Weights that FSDP2 has spread over processes: read whole, written back, put together when the training is done."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from vislex.training.engines import layer_classes

__all__ = ["gathered", "local", "shard_like", "skeleton", "take_whole", "tell_layers", "whole", "whole_weights"]


def tell_layers(model: nn.Module) -> None:
    """Tells accelerate what FSDP gathers one after the other, by the names that it asks for."""
    model._no_split_modules = layer_classes(model)  # type: ignore[assignment]
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            getattr(model, name)()
        except (AttributeError, NotImplementedError):  # a model without words
            setattr(model, name, lambda: None)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A full tensor spread like ``pattern``; all processes must call it."""
    if not isinstance(pattern, DTensor):
        return tensor
    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The full state dict on the CPU; all processes must call it, and all get it."""
    return {name: whole(tensor).detach().cpu() for name, tensor in model.state_dict().items()}


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Holds all weights in every process, so that any method of the model can be called, not ``forward`` alone."""
    managed = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in managed:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in managed:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)


def skeleton(model: nn.Module, attached: Sequence[nn.Module] = ()) -> nn.Module:
    """A copy without weights (its parameters are on the meta device), to put a sharded model together with.

    Args:
        model: Not sharded yet.
        attached: Modules that it refers to and that are not its own: the copy refers to the same.
    """
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(module): module for module in attached}
    return copy.deepcopy(model, memo)


def take_whole(model: nn.Module, bare: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Turns a sharded model into a plain one, in place.

    Args:
        model: What is left of it are its name and its mode; every part is that of ``bare``.
        bare: Its ``skeleton``.
        weights: Its full state dict.
    """
    training = model.training
    model.__class__, model.__dict__ = type(bare), bare.__dict__
    model.load_state_dict(dict(weights), assign=True)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    model.train(training)
