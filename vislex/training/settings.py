"""Settings that every training recipe shares, and what follows from them for ``transformers.TrainingArguments``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from transformers import TrainingArguments

from vislex.config import Config
from vislex.hardware import has_fast_bfloat16, resolve_device
from vislex.training.engines import asked_engine, processes

__all__ = ["TrainingSettings", "samples_a_step", "total_draws", "training_arguments", "uses_bf16"]


class TrainingSettings(Config):
    """Base of the recipes' configurations.

    Attributes:
        budget: Which row of ``budgets.yaml`` fills steps, sizes and warm-up.
        output_dir: Where model, ``training.jsonl``, ``run.json`` and checkpoints go; None derives it from the config.
        steps: Optimizer steps.
        batch_size: Samples a step and process.
        lr: Peak learning rate of every part that names none of its own.
        schedule: Decay after ``warmup_steps`` of linear warm-up.
        ema_decay: Decay of the moving average of the trained weights; 0 keeps none. The average is what is
            validated and saved.
        save_every: Steps between checkpoints for resuming; 0 writes one on SIGTERM only.
        resume: "auto" continues from the newest whole checkpoint in ``output_dir``, "never" removes what is there and
            starts anew.
        precision: "auto" computes in bf16 where the hardware is fast at it, else in fp32.
        activation_checkpointing: Whether layers keep their inputs only and run again in backward: less memory, about a
            third more work.
        compile: "inductor" compiles the model by ``torch.compile`` (its first steps take minutes); "aot_eager" traces
            it without making code, to look for faults.
        data_workers: Processes that read and prepare batches ahead of the training; they change nothing in the data.
    """

    budget: Literal["smoke", "demo", "standard", "long"] = "standard"
    output_dir: Path | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(64, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    lr: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.05, ge=0)
    beta2: float = Field(0.98, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    eval_every: int = Field(500, ge=1)
    log_every: int = Field(20, ge=1)
    save_every: int = Field(500, ge=0)
    resume: Literal["auto", "never"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    activation_checkpointing: bool = False
    compile: Literal["off", "inductor", "aot_eager"] = "off"
    data_workers: int = Field(0, ge=0)
    device: str = "auto"
    progress: bool = True


def samples_a_step(settings: TrainingSettings) -> int:
    """Samples of an optimizer step over all processes."""
    return settings.batch_size * settings.gradient_accumulation * processes()


def total_draws(settings: TrainingSettings) -> int:
    """Samples that a training sees over all processes."""
    return settings.steps * samples_a_step(settings)


def uses_bf16(settings: TrainingSettings) -> bool:
    """Whether the training computes in bf16 (weights and optimizer state stay in fp32)."""
    return settings.precision == "bf16" or (settings.precision == "auto" and has_fast_bfloat16(settings.device))


def training_arguments(settings: TrainingSettings, output_dir: Path) -> TrainingArguments:
    """Translates the settings; optimizer groups, data order, validation and progress are ``PartTrainer``'s."""
    device = resolve_device(settings.device)
    plain = not (settings.activation_checkpointing or asked_engine(device).shards or settings.compile != "off")
    schedules = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
    return TrainingArguments(
        output_dir=str(output_dir / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.lr,
        lr_scheduler_type=schedules[settings.schedule],
        warmup_steps=min(settings.warmup_steps, settings.steps - 1),
        weight_decay=settings.weight_decay,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        eval_strategy="steps",
        eval_steps=min(settings.eval_every, settings.steps),
        logging_steps=min(settings.log_every, settings.steps),
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or settings.steps,
        save_total_limit=2,  # one to go on from, one in case its disk fails
        use_cpu=device.type == "cpu",
        bf16=uses_bf16(settings) and not plain,  # by autocast or the engine; else ``bf16_call`` does it faster
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        dataloader_num_workers=settings.data_workers,
        logging_nan_inf_filter=False,  # it waits for the device at every step, and hides that a training has failed
        dataloader_pin_memory=device.type == "cuda",
        report_to=[],
        disable_tqdm=True,
        ddp_find_unused_parameters=True,  # an encoder's own head, or a connector in a batch of text, has no gradient
    )
