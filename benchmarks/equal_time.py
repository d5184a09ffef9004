"""Equal time: how many steps of one training take as long as those of another.

Steps of all trainings alternate in one process, so that whatever else the machine does falls on all of them; a clock
that ended each training by itself would not be fair on a busy machine, and would give other weights in every run. The
steps are counted once, and then a training follows its own schedule to its end.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch.nn.utils import clip_grad_norm_

from vislex.recipes.caption import CaptionConfig, prepare
from vislex.training.trainer import PartTrainer

__all__ = ["measure_step_seconds", "steps_of_equal_time"]

WARMUP = 3


def measure_step_seconds(configs: Mapping[str, CaptionConfig], *, rounds: int = 40) -> dict[str, list[float]]:
    """Times training steps of several captioners in turn: data, forward, backward, clipping, optimizer, average.

    Args:
        configs: Trainings by name.
        rounds: Timed steps of each; some more are not timed.

    Returns:
        Seconds of each step, by name; what belongs to one round stands at the same place of each list.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: _stepper(prepare(config, Path(folder) / name)[1]) for name, config in configs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in configs}
        for done in range(-WARMUP, rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step(done + WARMUP)
                if done >= 0:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def steps_of_equal_time(steps: int, seconds: Mapping[str, list[float]], *, of: str, like: str) -> int:
    """Steps of training ``of`` that take as long as ``steps`` of training ``like``, at least 1.

    Means, not medians: a part of LaDiC's steps has a second forward, and those count.
    """
    return max(1, round(steps * float(np.mean(seconds[like])) / float(np.mean(seconds[of]))))


def _stepper(trainer: PartTrainer) -> Callable[[int], None]:
    """What does step i of a training, as ``Trainer`` does it."""
    optimizer = trainer.create_optimizer()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    draws, size, device = trainer.train_dataset, trainer.settings.batch_size, trainer.args.device

    def step(number: int) -> None:
        first = number * size % max(1, len(draws) - size)
        batch = draws.__getitems__(range(first, first + size))
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, {name: value.to(device) for name, value in batch.items()})
        loss.backward()
        clip_grad_norm_(trained, trainer.settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if trainer.ema is not None:
            trainer.ema.on_step_end(trainer.args, trainer.state, trainer.control)

    return step
