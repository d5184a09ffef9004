"""What a training tells, and hears: a JSON line for every log entry, a progress bar, and SIGTERM."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vislex.training.files import write_whole

__all__ = ["JsonlCallback", "ProgressCallback", "StopCallback", "mean_loss", "read_log"]

SHOWN = {
    "loss": "loss", "images_per_second": "images/s", "text_tokens_per_second": "text tokens/s",
    "image_tokens_per_second": "image tokens/s", "data_wait": "data wait", "peak_memory_mb": "MB", "mfu": "MFU",
}  # fmt: skip
SHARES = ("data_wait", "mfu")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``training.jsonl``; a torn last line is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def mean_loss(entries: Sequence[Mapping[str, Any]], *, otherwise: float) -> float:
    """Mean over all steps that a ``training.jsonl`` tells of; ``otherwise`` where it tells of none."""
    logged = [entry for entry in entries if "loss" in entry]
    steps = np.diff([0, *(entry["step"] for entry in logged)])
    return float(np.average([entry["loss"] for entry in logged], weights=steps)) if logged else otherwise


class JsonlCallback(TrainerCallback):
    """Appends each log entry to a file; a resumed training first drops the entries after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = (
            [entry for entry in read_log(self.path) if entry["step"] <= state.global_step] if self.path.exists() else []
        )
        kept = kept if state.global_step else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            entry = {"step": state.global_step, **{key: value for key, value in logs.items() if key != "epoch"}}
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError as error:  # a full disk does not say which file it was
                raise OSError(error.errno, error.strerror, str(self.path)) from error


class ProgressCallback(TrainerCallback):
    """A bar on stderr with loss, speed, memory and the last validation."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._figures: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
        )
        self._task = self._progress.add_task(self.title, total=state.max_steps, completed=state.global_step, figures="")
        self._progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if self._progress is None or not logs:
            return
        for key, value in logs.items():
            if key in SHOWN or (key.startswith("eval_") and isinstance(value, float)):
                name = SHOWN.get(key, key.removeprefix("eval_"))
                self._figures[name] = (
                    f"{value:.0%}" if key in SHARES else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
                )
        if "peak_memory_mb" in logs:
            self._figures.setdefault("MFU", "n/a")
        self._progress.update(self._task, figures=" ".join(f"{key} {value}" for key, value in self._figures.items()))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class StopCallback(TrainerCallback):
    """Answers SIGTERM, as schedulers send it before they kill: the running step ends, a checkpoint, and no more steps.

    Attributes:
        stopped: Whether a training was ended.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM for this callback; outside the main thread, where no signal arrives, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        asked = self._asked
        if args.world_size > 1:  # the signal reaches the processes at different steps; they must stop at the same
            asked = bool(reduce(torch.tensor(float(asked), device=args.device), "sum") > 0)
        if asked:
            self.stopped = control.should_save = control.should_training_stop = True
