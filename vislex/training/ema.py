"""Exponential moving average of the trained weights, kept beside the model and swapped in to validate and save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from vislex.training.checkpoints import KeptCallback
from vislex.training.sharding import local, shard_like, whole

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
        self._model = model
        self._trained = self._parameters()
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._trained.items()}

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Takes the parameters as they are now, sharded ones under FSDP, and spreads the average alike."""
        self._trained = self._parameters()
        for name, parameter in self._trained.items():
            if type(self.average[name]) is not type(parameter.data):
                self.average[name] = shard_like(whole(self.average[name]), parameter.data)

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        averages = [local(self.average[name]) for name in self._trained]
        torch._foreach_lerp_(averages, [local(p.detach()) for p in self._trained.values()], 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        return {name: whole(average) for name, average in self.average.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, average in self.average.items():
            local(average).copy_(local(shard_like(tensors[name], average)))

    def put(self) -> None:
        """Leaves the average in the model."""
        self._put(self.average)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Puts the average into the model, and the raw weights back afterwards."""
        raw = {name: local(p.detach()).clone() for name, p in self._trained.items()}
        self.put()
        try:
            yield
        finally:
            self._put(raw)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            local(parameter).copy_(local(values[name]))
