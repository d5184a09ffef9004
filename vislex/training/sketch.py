"""What a recipe would train, without its data and weights: each stage's model, parts and the shapes of a batch.

A recipe draws its sketch on the device that is the default when it is asked: on "meta" it costs nothing, whatever the
size; on a real one its steps can be run and measured.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from vislex.encoders.base import VisionEncoder
from vislex.processing import create_image_processor
from vislex.training.parts import PartSettings, PartsPlan, prepare_parts
from vislex.training.recompute import checkpoint_activations
from vislex.training.settings import TrainingSettings, training_arguments
from vislex.training.shadow import Autocast
from vislex.training.trainer import Loss, bf16_call

__all__ = ["Sketch", "Stage", "caption_shapes", "image_shapes", "optimizer_of", "vision_shapes"]

Batch = Callable[[int, bool], dict[str, Any]]


@dataclass(frozen=True)
class Sketch:
    """One stage of a training.

    Attributes:
        settings: Steps, batch size, precision and learning rate of the stage.
        model: The model.
        parts: How its parts are trained, as ``PartTrainer`` takes it.
        batch: Called with a number of samples, and whether they are typical (else: the longest there can be); gives
            the keyword arguments of the model, and runs what the recipe runs to make them.
        loss: As ``PartTrainer`` takes it.
        optimizer: As ``PartTrainer`` takes it.
        title: What tells stages apart; empty for a recipe of one stage.
        attached: Frozen networks beside the model that it runs.
        notes: What the sketch had to assume.
    """

    settings: TrainingSettings
    model: PreTrainedModel
    parts: Mapping[str, PartSettings]
    batch: Batch
    loss: Loss | None = None
    optimizer: str = "adamw"
    title: str = ""
    attached: Mapping[str, nn.Module] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Stage:
    """A sketch that is ready to step: frozen, adapted and grouped as ``PartTrainer`` does it.

    Attributes:
        sketch: The sketch.
        plan: Its parts.
        bf16: Whether it computes in bf16.
    """

    def __init__(self, sketch: Sketch, *, bf16: bool) -> None:
        self.sketch, self.bf16 = sketch, bf16
        settings = sketch.settings
        # PiSSA's adapters have the shapes of plain ones, but start from values.
        parts = {
            name: own.model_copy(update={"lora_variant": "lora"}) if own.lora_variant == "pissa" else own
            for name, own in sketch.parts.items()
        }
        self.plan: PartsPlan = prepare_parts(sketch.model, parts, lr=settings.lr, weight_decay=settings.weight_decay)
        self._frozen: dict[str, Tensor] = {}
        self._copies_weights = bf16 and not settings.activation_checkpointing and settings.compile == "off"
        if settings.activation_checkpointing:
            checkpoint_activations(sketch.model, list(sketch.attached.values()))
        sketch.model.train()
        self.plan.hold()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """While open, the loss and its backward run in the number format of the training."""
        first = next(self.sketch.model.parameters())
        if not self.bf16 or self._copies_weights:
            yield
        elif first.is_meta:  # of which autocast knows nothing
            with Autocast():
                yield
        else:
            with torch.autocast(first.device.type, torch.bfloat16):
                yield

    def loss(self, samples: int, *, typical: bool = False) -> Tensor:
        """The loss float[] of a batch, which is made first."""
        model, batch = self.sketch.model, self.sketch.batch(samples, typical)
        run: Any = functools.partial(bf16_call, model, frozen=self._frozen) if self._copies_weights else model
        found: Tensor = self.sketch.loss(run, batch) if self.sketch.loss is not None else run(**batch).loss
        return found


def optimizer_of(sketch: Sketch, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that ``PartTrainer`` makes of parameter groups, without its fused kernel, which needs a device."""
    arguments = training_arguments(sketch.settings.model_copy(update={"device": "cpu"}), Path("runs"))
    if sketch.optimizer == "adafactor":
        arguments.optim = type(arguments.optim)("adafactor")
    made, options = Trainer.get_optimizer_cls_and_kwargs(arguments, sketch.model)
    options = {name: value for name, value in options.items() if name not in ("lr", "fused")}
    optimizer: torch.optim.Optimizer = made(groups, lr=sketch.settings.lr, **options)
    return optimizer


def vision_shapes(encoder: VisionEncoder, samples: int, *, cached: bool) -> dict[str, Tensor]:
    """Inputs of images: tokens of a frozen encoder as a cache gives them, else what its image processor gives."""
    spec = encoder.spec
    if not cached:
        return image_shapes(encoder, samples)
    tokens = {"vision_tokens": torch.rand(samples, spec.n_tokens, spec.dim)}
    if spec.variable_length:
        tokens["vision_mask"] = torch.ones(samples, spec.n_tokens, dtype=torch.bool)
    return tokens


def image_shapes(encoder: VisionEncoder, samples: int) -> dict[str, Tensor]:
    """What the image processor of an encoder gives for ``samples`` images."""
    with torch.device("cpu"):
        height, width = encoder.spec.image_size
        one = create_image_processor(encoder.spec)([Image.new("RGB", (width, height))], return_tensors="pt")
    return {
        name: torch.rand(samples, *value.shape[1:]) if value.is_floating_point() else value.repeat(
            samples, *[1] * (value.ndim - 1)
        )
        for name, value in one.items()
    }  # fmt: skip


def caption_shapes(samples: int, length: int, *, bos: int, eos: int, word: int) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` int64[samples, length] of captions without padding."""
    input_ids = torch.full((samples, length), word)
    input_ids[:, 0], input_ids[:, -1] = bos, eos
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": input_ids.clone()}
