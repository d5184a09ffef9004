"""One of two processes that train together: ``python processes.py FOLDER JOB ...``, started by test_processes.py.

Each job leaves its figures in FOLDER, for the test to compare with one process. All share the time that imports take.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from vislex.errors import StoppedError
from vislex.training.draws import Draws
from vislex.training.ema import EMACallback
from vislex.training.parts import PartSettings, merge_lora
from vislex.training.settings import TrainingSettings, samples_a_step
from vislex.training.sharding import gathered, prepare_to_shard, skeleton, take_whole, whole, whole_weights
from vislex.training.trainer import PartTrainer, label_tokens

RANK = int(os.environ.get("RANK", "0"))
VOCABULARY, ROWS = 13, 10


def make_trainer(output: Path, *, n_draws: int | None = None, **settings: Any) -> PartTrainer:
    """A tiny GPT-2 on counting sequences of two to six tokens, which writes down the positions that it sees."""
    torch.manual_seed(0)
    without = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # dropout follows the split into batches
    sizes = {"vocab_size": VOCABULARY, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **without))
    values = {
        "steps": 6, "batch_size": 4, "warmup_steps": 1, "save_every": 3, "eval_every": 3, "log_every": 1,
        "ema_decay": 0.9, "progress": False, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    config = TrainingSettings(**{**values, **settings})
    seen: list[int] = []

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Tensor]:
        seen.extend(positions.tolist())
        ids = torch.from_numpy((rows[:, None] + np.arange(6)) % VOCABULARY)
        beyond = torch.arange(6) >= 2 + torch.from_numpy(rows)[:, None] % 5
        return {"input_ids": ids, "labels": ids.masked_fill(beyond, -100)}

    draws = Draws(ROWS, n_draws or config.steps * samples_a_step(config), seed=0, fetch=fetch)
    trainer = PartTrainer(
        model,
        config,
        parts={"transformer": PartSettings()},
        draws=draws,
        output_dir=output,
        validate=lambda model: {"loss": float(model(**fetch(np.arange(ROWS), np.arange(0))).loss)},
        items=label_tokens,
    )
    trainer.seen = seen
    return trainer


def save(model: nn.Module, path: Path) -> None:
    """Writes the parameters, tied ones once."""
    save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, path)


class _Captured(Exception):  # noqa: N818
    """Carries the trainer that a recipe has built."""

    def __init__(self, trainer: PartTrainer) -> None:
        self.trainer = trainer


def captured(run: Callable[[], Any]) -> PartTrainer:
    """The trainer that a recipe builds, just before it would train."""

    def stop(trainer: PartTrainer, **_: Any) -> None:
        raise _Captured(trainer)

    plain, PartTrainer.fit = PartTrainer.fit, stop  # type: ignore[method-assign,assignment]
    try:
        run()
    except _Captured as found:
        return found.trainer
    finally:
        PartTrainer.fit = plain  # type: ignore[method-assign]
    raise AssertionError("the recipe trained nothing")


def ddp(folder: Path) -> None:
    """Trains, trains again from a checkpoint, and trains on data that ends in the middle of a batch."""
    for name, options in {"ddp": {}, "uneven": {"n_draws": 44}}.items():
        trainer = make_trainer(folder / name, **options)
        figures = trainer.fit()
        (folder / f"{name}-{RANK}.json").write_text(json.dumps({"seen": trainer.seen, "figures": figures}))
        save(trainer.model, folder / f"{name}-{RANK}.safetensors")
    torch.distributed.barrier()
    if RANK == 0:
        (folder / "ddp" / "checkpoints" / "checkpoint-6" / "manifest.json").unlink()  # torn
    torch.distributed.barrier()
    trainer = make_trainer(folder / "ddp")
    trainer.fit()
    (folder / f"resumed-{RANK}.json").write_text(json.dumps({"seen": trainer.seen}))
    save(trainer.model, folder / f"resumed-{RANK}.safetensors")


def killed(folder: Path) -> None:
    """The second process dies in the fifth step; the first one says what that means."""

    class Die(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4 and RANK == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    trainer = make_trainer(folder / "killed")
    trainer.add_callback(Die())
    try:
        trainer.fit()
    except StoppedError as error:
        (folder / "killed.json").write_text(json.dumps(str(error)))


def sharded(folder: Path, runs: ModuleType, name: str) -> None:
    """Shards a recipe's model with accelerate's own function, and compares a step with that of one process."""
    recipe, config = runs.prepared(name, folder / f"rank-{RANK}" / name.replace(", ", "-"), starts=folder)
    trainer = captured(lambda: recipe.run(config))
    bare = skeleton(trainer.model, [trainer.model.t2i] if hasattr(trainer.model, "_t2i") else [])
    prepare_to_shard(trainer.model, torch.device("cpu"))
    model, loss_of = trainer.model.train(), trainer._loss or (lambda called, batch: called(**batch).loss)
    halves = [trainer.train_dataset.__getitems__(range(4 * rank, 4 * rank + 4)) for rank in (0, 1)]

    def loss(rank: int) -> Tensor:
        torch.manual_seed(rank)
        value: Tensor = loss_of(model, dict(halves[rank]))
        return value

    alone = [loss(rank) for rank in (0, 1)]
    (sum(alone) / 2).backward()  # type: ignore[union-attr]
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert expected
    model.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = EMACallback(model, 0.5)

    plugin = FullyShardedDataParallelPlugin()
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", is_main_process=RANK == 0
    )
    fsdp2_prepare_model(accelerator, model)
    layers = sum(isinstance(module, FSDPModule) for module in model.modules())
    assert isinstance(model, FSDPModule)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    own = loss(RANK)
    torch.testing.assert_close(own, alone[RANK], rtol=1e-5, atol=1e-6)
    own.backward()
    found = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(
            found[key], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )

    with torch.no_grad():  # one step of plain descent
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    stepped = {name: value - 0.1 * expected[name] if name in expected else value for name, value in before.items()}
    average.on_train_begin(SimpleNamespace(), SimpleNamespace(), SimpleNamespace())
    average.on_step_end(SimpleNamespace(), SimpleNamespace(global_step=100), SimpleNamespace())
    for key, value in average.tensors().items():
        torch.testing.assert_close(value, (before[key] + stepped[key]) / 2, rtol=1e-5, atol=1e-6)
    if trainer._validate is not None:
        model.eval()
        with gathered(model), torch.no_grad():
            figures = trainer._validate(model)
        assert all(np.isfinite(value) for value in figures.values())
        model.train()

    weights = whole_weights(model)
    take_whole(model, bare, weights)
    assert not any(isinstance(module, FSDPModule) for module in model.modules())
    tied = {name for name in before if name not in dict(model.named_parameters()) and name not in expected}
    for key, value in model.state_dict().items():
        assert type(value) is Tensor or type(value) is nn.Parameter
        if key not in tied:
            torch.testing.assert_close(value, stepped[key], rtol=1e-5, atol=1e-6)
    loss(RANK).backward()  # a plain model again
    merge_lora(model)
    if RANK == 0:
        kept = {key: value.clone() for key, value in model.state_dict().items()}
        model.save_pretrained(folder / "saved" / name)
        saved = load_file(folder / "saved" / name / "model.safetensors")
        assert all(torch.equal(value, kept[key]) for key, value in saved.items() if key in kept)
        (folder / f"sharded-{name}.json").write_text(json.dumps({"layers": layers, "saved": len(saved)}))


def main(folder: Path, jobs: list[str]) -> None:
    runs = importlib.import_module("runs")  # beside this script
    failed = []
    for job in jobs:
        kind, _, name = job.partition(":")
        try:
            if kind == "sharded":
                sharded(folder, runs, name)
            else:
                {"ddp": ddp, "killed": killed}[kind](folder)
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError):  # go on with the others
            traceback.print_exc()
            failed.append(job)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
