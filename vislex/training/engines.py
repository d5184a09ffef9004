"""The engine that runs a training: one process, DDP, FSDP2 or DeepSpeed, as ``torchrun`` or ``accelerate launch`` ask.

Without a GPU accelerate runs DDP where FSDP or DeepSpeed was asked for, and says nothing; here that is an error.
"""

from __future__ import annotations

import importlib.util
import os
from enum import Enum

import torch
from accelerate.utils import DistributedType
from torch import nn

from vislex.errors import ConfigError, MissingDependencyError

__all__ = ["Engine", "asked_engine", "check_engine", "is_lost_process", "layer_classes", "processes"]

LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket timeout", "remote process")


class Engine(Enum):
    """How the processes of a training share its work."""

    SINGLE = "one process"
    DDP = "DDP"
    FSDP = "FSDP"
    DEEPSPEED = "DeepSpeed"

    @property
    def shards(self) -> bool:
        """Whether a process may hold only a part of the weights."""
        return self in (Engine.FSDP, Engine.DEEPSPEED)


def processes() -> int:
    """Processes of this training (``WORLD_SIZE``, which torchrun and accelerate set)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def asked_engine(device: torch.device) -> Engine:
    """The engine that the launcher asked for, from its environment.

    Raises:
        ConfigError: If it does not run on this device, or is the first FSDP.
        MissingDependencyError: If DeepSpeed is asked for and not installed.
    """
    engine = Engine.DDP if processes() > 1 else Engine.SINGLE
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        engine = Engine.DEEPSPEED
    elif _is_set("ACCELERATE_USE_FSDP"):
        engine = Engine.FSDP
    if engine.shards and device.type == "cpu":
        raise ConfigError(
            f"the launcher asks for {engine.value}, which accelerate does not run on a cpu: it would run DDP in its "
            "place; launch with GPUs, or with torchrun or the packaged engines/ddp.yaml"
        )
    if engine is Engine.FSDP and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "the launcher asks for the first FSDP; set fsdp_version: 2, as the packaged engines/fsdp2.yaml"
        )
    if engine is Engine.DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        raise MissingDependencyError("deepspeed", "training with DeepSpeed")
    return engine


def check_engine(asked: Engine, found: DistributedType) -> None:
    """Compares the engine that was asked for with the one that accelerate has set up.

    Raises:
        ConfigError: If they differ.
    """
    kinds = {Engine.FSDP: DistributedType.FSDP, Engine.DEEPSPEED: DistributedType.DEEPSPEED}
    expected = kinds.get(asked)
    is_other = found in kinds.values() or (asked is Engine.DDP and found is DistributedType.NO)
    if found is not expected if expected is not None else is_other:
        raise ConfigError(
            f"{asked.value} was asked for, but accelerate has set up {found.value}; FSDP and DeepSpeed need at least "
            "two processes on GPUs"
        )


def layer_classes(model: nn.Module) -> set[str]:
    """Names of the classes of the repeated blocks, outermost ones: what FSDP gathers and frees one after the other.

    A class with ``called_in_parts = True``, of whose blocks more than ``forward`` is called, is left out; the blocks
    inside take its place.
    """
    found: set[str] = set()
    inside: set[str] = set()
    for name, module in model.named_modules():
        blocks = list(module.children())
        is_list = isinstance(module, nn.ModuleList) or (
            isinstance(module, nn.Sequential) and len(blocks) > 1 and len({type(block) for block in blocks}) == 1
        )
        if not is_list or any(name.startswith(f"{outer}.") for outer in inside):
            continue
        kinds = {type(block) for block in blocks if any(True for _ in block.parameters())}
        is_apart = any(
            kind.__module__.startswith("torch.") or getattr(kind, "called_in_parts", False) for kind in kinds
        )
        if kinds and not is_apart:
            inside.add(name)
            found |= {kind.__name__ for kind in kinds}
    return found


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of a collective call says that another process is gone."""
    if processes() == 1 or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(sign in text for sign in LOST)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")
