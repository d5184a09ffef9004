"""Where the memory of a training goes, kind by kind, on each engine that can run it over several accelerators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from vislex.training.sketch import Stage
from vislex.training.trace import Trace, optimizer_bytes, tensor_bytes

__all__ = ["ENGINES", "Memory", "engine_memory", "sharded"]

# (stage, parameters that have a gradient, accelerators) -> bytes by kind
Count = Callable[[Stage, Sequence[nn.Parameter], int], dict[str, int]]
BUCKET = 500_000_000  # elements that DeepSpeed gathers or reduces at once, by default


@dataclass(frozen=True)
class Memory:
    """Bytes on one accelerator.

    Attributes:
        weights: Parameters and buffers of the model.
        attached: Frozen networks beside it.
        copies: Parameters in the number format that is computed in.
        gradients: Of what is trained.
        optimizer: Its state; with DeepSpeed the float32 weights that it steps, too.
        average: The moving average of what is trained.
        communication: Buffers of what is on its way to and from the others.
        activations: What is saved for backward, of one batch.
        temporary: What else is alive at the peak.
    """

    weights: int
    attached: int
    copies: int
    gradients: int
    optimizer: int
    average: int
    communication: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    @property
    def fixed(self) -> int:
        """What does not grow with the batch."""
        return self.total - self.activations - self.temporary


def engine_memory(engine: str, stage: Stage, trace: Trace, gpus: int) -> Memory:
    """Memory of a stage whose step was traced.

    Weights, gradients and optimizer are counted to the byte, but for the padding of DeepSpeed's flat buffers;
    communication is an estimate from the engines' defaults.

    Args:
        engine: A key of ``ENGINES``.
        stage: The stage.
        trace: Of a batch.
        gpus: Accelerators.
    """
    kinds = ENGINES[engine](stage, trace.reached, gpus)
    attached = sum(tensor_bytes((*own.parameters(), *own.buffers())) for own in stage.sketch.attached.values())
    copies = trace.copies if engine == "ddp" else 0  # the others cast what they gather, or the model itself
    return Memory(**kinds, attached=attached, copies=copies, activations=trace.activations, temporary=trace.temporary)


def sharded(parameter: torch.Tensor, gpus: int) -> torch.Size:
    """Shape of the first of ``gpus`` shards, the largest one, as FSDP2 cuts a parameter along its first axis."""
    if parameter.ndim == 0:
        return parameter.shape
    return torch.Size([math.ceil(parameter.shape[0] / gpus), *parameter.shape[1:]])


def _ddp(stage: Stage, reached: Sequence[nn.Parameter], gpus: int) -> dict[str, int]:
    gradients = tensor_bytes(reached)
    return {
        "weights": tensor_bytes(stage.sketch.model.parameters()) + _buffers(stage),
        "gradients": gradients,
        "optimizer": optimizer_bytes(stage, reached),
        "average": tensor_bytes(_trained(stage)) if stage.sketch.settings.ema_decay else 0,
        "communication": gradients if gpus > 1 else 0,  # its buckets
    }


def _fsdp2(stage: Stage, reached: Sequence[nn.Parameter], gpus: int) -> dict[str, int]:
    def shards(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        made = (torch.empty(sharded(own, gpus), dtype=own.dtype, device="meta") for own in parameters)
        return [nn.Parameter(own) for own in made]

    own = shards(reached)
    gathered = 2 * _largest_unit(stage.sketch.model) * (2 if stage.bf16 else 4)  # one at work, one on its way
    return {
        "weights": tensor_bytes(shards(list(stage.sketch.model.parameters()))) + _buffers(stage),
        "gradients": tensor_bytes(own),
        "optimizer": optimizer_bytes(stage, own),
        "average": tensor_bytes(shards(_trained(stage))) if stage.sketch.settings.ema_decay else 0,
        "communication": gathered if gpus > 1 or stage.bf16 else 0,
    }


def _zero(level: int) -> Count:
    """ZeRO (arXiv 1910.02054): level 1 shares out the optimizer, 2 the gradients, 3 the weights."""

    def count(stage: Stage, reached: Sequence[nn.Parameter], gpus: int) -> dict[str, int]:
        size = 2 if stage.bf16 else 4  # the model itself is cast
        parameters = sum(own.numel() for own in stage.sketch.model.parameters())
        trained = sum(own.numel() for own in _trained(stage))
        moments = 1 if stage.sketch.optimizer == "adafactor" else 2  # flat shards have no rows to factor
        bucket = min(BUCKET, trained) * size
        gathered = 2 * _largest_unit(stage.sketch.model) * size
        return {
            "weights": parameters * size // (gpus if level == 3 else 1) + _buffers(stage),
            "gradients": trained * size // (gpus if level >= 2 else 1),
            "optimizer": 4 * (1 + moments) * math.ceil(trained / gpus),
            "average": 4 * trained if stage.sketch.settings.ema_decay else 0,
            "communication": (bucket + gathered if level == 3 else 2 * bucket) if gpus > 1 else 0,
        }

    return count


ENGINES: dict[str, Count] = {
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "zero1": _zero(1),
    "zero2": _zero(2),
    "zero3": _zero(3),
}


def _trained(stage: Stage) -> list[nn.Parameter]:
    return [own for own in stage.sketch.model.parameters() if own.requires_grad]


def _buffers(stage: Stage) -> int:
    return tensor_bytes(stage.sketch.model.buffers())


def _largest_unit(model: nn.Module) -> int:
    """Parameters of the largest layer, or of what lies in no layer: what an engine gathers at once."""
    layers = [layer for own in model.modules() if isinstance(own, nn.ModuleList) for layer in own]
    counted = {id(parameter) for layer in layers for parameter in layer.parameters()}
    rest = sum(own.numel() for own in model.parameters() if id(own) not in counted)
    return max([rest, *(sum(own.numel() for own in layer.parameters()) for layer in layers)])
