"""``transformers.Trainer`` with parts, data by position, an average of the weights, and validation by a function."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, reduce
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, is_tensorboard_available
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from vislex.errors import CheckpointError, ConfigError, StoppedError
from vislex.hardware import denormals_as_zero
from vislex.specs import VisionTokens
from vislex.training.callbacks import JsonlCallback, ProgressCallback, StopCallback, mean_loss, read_log
from vislex.training.checkpoints import (
    KeptCallback,
    check_space,
    checkpoint_path,
    claimed,
    clean,
    newest_whole_checkpoint,
    path_beside,
    publish,
    rotate,
)
from vislex.training.draws import Draws, identity_collate
from vislex.training.ema import EMACallback
from vislex.training.engines import Engine, asked_engine, check_engine, is_lost_process
from vislex.training.meter import Meter, MeterCallback, batch_counts, image_tokens_of, join_spans, peak_flops
from vislex.training.parts import PartSettings, has_running_means, merge_lora, parts_table, prepare_parts
from vislex.training.recompute import checkpoint_activations
from vislex.training.settings import TrainingSettings, training_arguments, uses_bf16
from vislex.training.sharding import gathered, prepare_to_shard, skeleton, take_whole, whole_weights

__all__ = ["PartTrainer", "bf16_call", "label_tokens", "plain_attention"]

Loss = Callable[[Callable[..., Any], dict[str, Any]], Tensor]
Validate = Callable[[nn.Module], dict[str, float]]
Items = Callable[[dict[str, Any]], Tensor]

logger = logging.getLogger(__name__)


class PartTrainer(Trainer):
    """Trains the parts of a model.

    Args:
        model: The model; it is frozen, adapted and grouped by ``parts`` in place.
        settings: Steps, learning rates, precision, checkpoints.
        parts: Dotted module name -> how it is trained; what is outside every part is trained in full.
        draws: Training data by position, with ``fetch`` giving the model's keyword arguments.
        output_dir: Receives ``training.jsonl``, ``logs`` (TensorBoard) and ``checkpoints``.
        loss: Called with the (wrapped) model and the batch, gives float[]; None takes the model's own ``loss``.
        validate: Called with the model in eval mode under autocast every ``eval_every`` steps; gives figures.
        title: Name on the progress bar.
        callbacks: Further ones; a ``KeptCallback`` keeps tensors beside the model in the checkpoints.
        optimizer: "adamw", or "adafactor" with its learning rates as given (no scaling by parameters, no relative
            steps).
        attached: Frozen modules that gradients pass through and that are no part of the model.
        items: Called with a batch, gives the number of things that its loss is the mean of (``label_tokens``): the loss
            of a step is their mean, however they are split into batches and processes. None: batches count alike.

    Attributes:
        meter: Measures this process.
        cost: What the whole training took, however often it was resumed, as ``join_spans`` gives it; after ``fit``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: TrainingSettings,
        *,
        parts: dict[str, PartSettings],
        draws: Draws,
        output_dir: Path,
        loss: Loss | None = None,
        validate: Validate | None = None,
        title: str = "training",
        console: Console | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        optimizer: str = "adamw",
        attached: Sequence[nn.Module] = (),
        items: Items | None = None,
    ) -> None:
        self.settings = settings
        self.folder = Path(output_dir)
        self.plan = prepare_parts(model, parts, lr=settings.lr, weight_decay=settings.weight_decay)
        self.cost: dict[str, float] = {}
        self._figures: dict[str, float] = {}
        self._validated_at = -1
        self._frozen: dict[str, Tensor] = {}
        self._loss, self._validate, self._items = loss, validate, items
        self._shares: Iterator[Tensor] | None = None
        self.bf16 = uses_bf16(settings)
        args = training_arguments(settings, self.folder)
        self.engine = asked_engine(args.device)
        if self.engine is Engine.DEEPSPEED and settings.ema_decay:
            raise ConfigError("DeepSpeed keeps no average of the weights here; set ema_decay=0, or use FSDP2")
        self.meter = Meter(args.device, peak_flops(args.device, "bfloat16" if self.bf16 else "float32"))
        self._counting = {
            "image_token_id": getattr(model.config, "image_token_id", None),
            "tokens_per_image": image_tokens_of(model),
        }
        self._plain, self._compiled = model, None
        self._bare = skeleton(model, attached) if self.engine.shards else None
        if settings.activation_checkpointing:
            checkpoint_activations(model, attached)
        if optimizer == "adafactor":
            args.optim = type(args.optim)("adafactor")
        if validate is None:
            args.eval_strategy = type(args.eval_strategy)("no")
        knew_use_cache = "use_cache" in vars(model.config)
        super().__init__(
            model=model, args=args, train_dataset=draws, eval_dataset=draws, data_collator=identity_collate
        )
        check_engine(self.engine, self.accelerator.distributed_type)
        if self.engine is Engine.FSDP:
            prepare_to_shard(model, args.device)
        if not knew_use_cache:  # Trainer sets it on every config; a checkpoint must not carry unknown keys
            vars(model.config).pop("use_cache", None)
        self.model_accepts_loss_kwargs = False  # the decoders take the mean over a batch themselves
        self.ema = EMACallback(model, settings.ema_decay) if settings.ema_decay else None
        self.remove_callback(PrinterCallback)
        self._log_file, self._stop = self.folder / "training.jsonl", StopCallback()
        self._kept = [callback for callback in (self.ema, *callbacks) if isinstance(callback, KeptCallback)]
        self._writing: Path | None = None
        for callback in (MeterCallback(self.meter), self.ema, *callbacks, JsonlCallback(self._log_file), self._stop):
            if callback is not None:
                self.add_callback(callback)
        self.console = console or Console(stderr=True)
        if is_tensorboard_available():
            board = TensorBoardCallback()
            board.logging_dir = str(self.folder / "logs")
            self.add_callback(board)
        if settings.progress:
            self.add_callback(ProgressCallback(title, self.console))

    def fit(self, *, merge: bool = True) -> dict[str, float]:
        """Prints the table of parts, trains (or resumes), and leaves the weights to save in the model.

        Args:
            merge: Whether adapters are folded into their layers; else they stay, for ``save_adapters``.

        Returns:
            The last validation's figures, with ``loss``, ``samples_per_second`` and ``seconds`` of the training.

        Raises:
            StoppedError: If SIGTERM ended the training, which has saved where it was, or another process was lost.
            CheckpointError: If a checkpoint could not be written (a full disk); those before are as they were.
            ConfigError: If another training writes into the same folder.
        """
        if self.settings.progress and self.is_world_process_zero():
            self.console.print(parts_table(self.plan))
        folder = Path(self.args.output_dir)
        with denormals_as_zero(), claimed(folder) if self.is_world_process_zero() else contextlib.nullcontext():
            return self._fit(merge)

    def _fit(self, merge: bool) -> dict[str, float]:
        checkpoint = self._find_checkpoint()
        if checkpoint is not None:
            for callback in self._kept:
                callback.load(checkpoint)
        transformers_logging.disable_progress_bar()
        try:
            with self._stop.listening():
                result = self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise StoppedError(
                f"another process of this training was lost after step {self.state.global_step}; {self._goes_on()}"
            ) from error
        if self._stop.stopped:
            raise StoppedError(f"SIGTERM stopped the training after step {self.state.global_step}; {self._goes_on()}")
        rest = self.meter.read(self._over_processes)
        if not self._figures and self._log_file.is_file():  # nothing was left to do, or to validate
            self._figures = _last_validation(self._log_file)
        if self.ema is not None:
            self.ema.put()
        self._put_together()
        if merge:
            merge_lora(self._plain)
        entries = read_log(self._log_file) if self._log_file.is_file() else []
        self.cost = join_spans([*entries, rest])
        figures = {"loss": mean_loss(entries, otherwise=result.training_loss), "seconds": self.cost["seconds"]}
        if self.cost["samples_per_second"]:
            figures["samples_per_second"] = self.cost["samples_per_second"]
        return {**figures, **{key: value for key, value in self._figures.items() if key.startswith("eval_")}}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            options.pop("lr", None)
            self.optimizer = cls(self.plan.groups, lr=self.settings.lr, **options)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if return_outputs:
            raise ConfigError("PartTrainer validates by its 'validate' function; it gives no outputs beside the loss")
        self.plan.hold()
        run: Any = model
        if self.settings.compile != "off":
            if self._compiled is None:
                self._compiled = torch.compile(model, backend=self.settings.compile)
            run = self._compiled
        elif self.bf16 and not self.args.bf16:
            run = functools.partial(bf16_call, model, frozen=self._frozen)
        with self.meter.part("forward"), plain_attention(self.args.device):
            loss = self._loss(run, inputs) if self._loss is not None else run(**inputs).loss
        return loss if self._shares is None else loss * next(self._shares)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        if self._validate is None or self.state.global_step == self._validated_at:
            return self._figures
        self._validated_at = self.state.global_step
        model = self._plain
        was_training = model.training
        average = self.ema.swapped() if self.ema is not None else contextlib.nullcontext()
        model.eval()
        with self.meter.paused(), average, gathered(model), torch.no_grad(), self.autocast():
            figures = self._validate(model)
        model.train(was_training)
        named = {f"{metric_key_prefix}_{key}": float(value) for key, value in figures.items()}
        self.log(named)
        self._figures = named
        return named

    def autocast(self) -> torch.autocast:
        """bf16 autocast on the training's device, if the training is in bf16."""
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bf16)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.meter.read(self._over_processes))
        super().log(logs, start_time)

    def _over_processes(self, tensor: Tensor) -> Tensor:
        summed: Tensor = reduce(tensor, "sum")
        return summed

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: it walks over all parameters at every step, and counts frozen ones like trained ones."""
        return 0

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> Any:
        with self.meter.waiting_for_data():
            batches, found = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._items is not None and len(batches) * self.args.world_size > 1:
            counts = torch.stack([self._items(batch) for batch in batches]).to(device, torch.float32)
            whole = self._over_processes(counts.sum())
            self._shares = iter(counts * (len(batches) * self.args.world_size) / whole)
        return batches, found

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        samples = self.args.per_device_train_batch_size
        counts = {"samples": samples, **batch_counts(inputs, **self._counting)}
        begun = self.meter.begin()
        with self.meter.counting_flops(samples):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.meter.end("step", begun)
        self.meter.add(counts)
        return loss

    def _put_together(self) -> None:
        """Makes a plain model of what FSDP or DeepSpeed has spread; under DeepSpeed in the first process only."""
        if self._bare is None:
            return
        if self.engine is Engine.FSDP:
            weights = whole_weights(self._plain)
        else:
            weights = self.accelerator.get_state_dict(self.model_wrapped)
        if self.engine is Engine.FSDP or self.is_world_process_zero():
            take_whole(self._plain, self._bare, weights)
            self._plain.to(self.args.device)

    def _find_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, after what is not wanted any more was removed."""
        folder = Path(self.args.output_dir)
        found: list[Path | None] = [None]
        if self.is_world_process_zero():
            clean(folder, everything=self.settings.resume == "never")
            found = [newest_whole_checkpoint(folder)]
        checkpoint: Path | None = broadcast_object_list(found)[0]
        if checkpoint is not None:
            logger.info("going on from '%s'", checkpoint)
        return checkpoint

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, step = Path(self.args.output_dir), self.state.global_step
        beside: Path = broadcast_object_list([path_beside(folder, step)])[0]
        try:
            with self.meter.paused():
                self._write_checkpoint(beside, step, model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            shutil.rmtree(beside, ignore_errors=True)
            if is_lost_process(error):
                raise
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to '{folder}' ({error}); make room there, then "
                f"{self._goes_on()}"
            ) from error

    def _write_checkpoint(self, beside: Path, step: int, model: nn.Module, trial: Any) -> None:
        target = checkpoint_path(beside.parent, step)
        kept = [(callback, callback.tensors()) for callback in self._kept]  # all processes: what is sharded is gathered
        if self.args.should_save:
            beside.mkdir(parents=True)
            check_space(beside, self._tensors_to_save() + [value for _, own in kept for value in own.values()])
        self.accelerator.wait_for_everyone()
        self._writing = beside
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            written = beside / target.name
            for callback, tensors in kept:
                callback.save(written, tensors)
            publish(written, target)
            beside.rmdir()
            rotate(target.parent, self.args.save_total_limit or 1)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes weights under the model's own names.

        transformers writes those of older layouts for LLaVA and others, which its Trainer does not find again when it
        resumes: it would warn, and go on from the weights it started with.
        """
        self.model.save_pretrained = functools.partial(self.model.save_pretrained, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del self.model.save_pretrained

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or super()._get_output_dir(trial))

    def _tensors_to_save(self) -> list[Tensor]:
        """Weights and state of the optimizer; what else a checkpoint holds are a few kilobytes."""
        found = [*self.model.parameters(), *self.model.buffers()]
        for state in self.optimizer.state.values():
            found += [value for value in state.values() if isinstance(value, Tensor)]
        return found

    def _goes_on(self) -> str:
        """What giving the same command again does."""
        checkpoint = newest_whole_checkpoint(Path(self.args.output_dir))
        where = f"goes on from '{checkpoint}'" if checkpoint is not None else "starts anew: there is no checkpoint"
        return f"the same command {where}"

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)  # Draws shuffles


def label_tokens(batch: dict[str, Any]) -> Tensor:
    """Tokens of a batch that next-token loss is taken on, int64[]."""
    return (batch["labels"][:, 1:] != -100).sum()


def _last_validation(log: Path) -> dict[str, float]:
    """Figures of the last validation that a ``training.jsonl`` knows."""
    validated = [entry for entry in read_log(log) if any(key.startswith("eval_") for key in entry)]
    return {key: value for key, value in validated[-1].items() if key.startswith("eval_")} if validated else {}


def bf16_call(model: nn.Module, /, *, frozen: dict[str, Tensor] | None = None, **inputs: Any) -> Any:
    """Calls a model with bf16 copies of its parameters and inputs; gradients arrive at its fp32 parameters.

    Against autocast, the residual stream, norms and activations are bf16 too: half the memory traffic, which is what
    small models spend their time on. Lone scalars (``logit_scale``) stay in fp32, and so do norms with running means,
    which no kernel takes in two number formats.

    Args:
        model: The model, wrapped or not.
        frozen: Keeps the copies of frozen parameters from one call to the next; None copies them each time.
        **inputs: The model's keyword arguments.
    """
    kept = {} if frozen is None else frozen
    copies = {}
    whole = {id(own) for module in model.modules() if has_running_means(module) for own in module.parameters(False)}
    for name, parameter in model.named_parameters():
        if name in kept:
            copies[name] = kept[name]
        elif (
            parameter.dtype == torch.float32
            and id(parameter) not in whole
            and (parameter.numel() > 1 or name.rpartition(".")[2] in ("weight", "bias"))
        ):
            copies[name] = parameter.to(torch.bfloat16)
            if not parameter.requires_grad:
                kept[name] = copies[name]
    return torch.func.functional_call(model, copies, (), {key: _to_bf16(value) for key, value in inputs.items()})


def _to_bf16(value: Any) -> Any:
    if isinstance(value, VisionTokens):
        return dataclasses.replace(value, tokens=_to_bf16(value.tokens), pooled=_to_bf16(value.pooled))
    return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def plain_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On a CPU the plain product is faster in backward than the fused kernel for sequences below some 200 tokens."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
