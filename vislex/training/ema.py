"""Exponential moving average of the trained weights, kept beside the model and swapped in to validate and save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from vislex.training.checkpoints import KeptCallback

__all__ = ["EMACallback"]


class EMACallback(KeptCallback):
    """Averages the trainable parameters after each step; stored in each checkpoint as ``ema.safetensors``.

    Args:
        model: The model that is trained, unwrapped.
        decay: Asymptotic decay; the first steps use ``min(decay, (1 + t) / (10 + t))`` as in TensorFlow's EMA.
    """

    file: ClassVar[str] = "ema.safetensors"

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        averages = [self.average[name] for name in self._trained]
        torch._foreach_lerp_(averages, [p.detach() for p in self._trained.values()], 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        return self.average

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, average in self.average.items():
            average.copy_(tensors[name])

    def put(self) -> None:
        """Leaves the average in the model."""
        self._put(self.average)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Puts the average into the model, and the raw weights back afterwards."""
        raw = {name: p.detach().clone() for name, p in self._trained.items()}
        self.put()
        try:
            yield
        finally:
            self._put(raw)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            parameter.copy_(values[name])
