"""Weights that FSDP2 has spread over processes: read whole, written back, put together when the training is done."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from vislex.training.engines import layer_classes

__all__ = ["gathered", "local", "prepare_to_shard", "shard_like", "skeleton", "take_whole", "whole", "whole_weights"]


@torch.no_grad()
def prepare_to_shard(model: nn.Module, device: torch.device) -> None:
    """Makes ready for ``accelerate`` what FSDP2 asks of a model.

    The layers are named that are gathered one after the other. Every process gets the parameters of the first one, as
    FSDP2 takes from each what it has.

    Args:
        model: Changed in place.
        device: Where the processes talk to each other.
    """
    model._no_split_modules = layer_classes(model)  # type: ignore[assignment]
    if not _have_own_shards(model):
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
    for parameter in model.parameters():
        parameter.data = broadcast(parameter.data.contiguous().to(device)).to(parameter.device)


def _have_own_shards(model: nn.Module) -> bool:
    """Whether accelerate can shard embeddings and head apart: they are there, and tied to each other at most."""
    try:
        pair = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False
    weights = [module.weight for module in pair if module is not None]
    owners = [module for module in model.modules() if any(getattr(module, "weight", None) is own for own in weights)]
    return all(any(module is own for own in pair) for module in owners)


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
