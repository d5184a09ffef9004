"""What a plan says of every recipe is what a real training then holds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vislex.training.memory import engine_memory
from vislex.training.shadow import Saved, Watch
from vislex.training.sketch import Stage
from vislex.training.trace import outline, tensor_bytes, trace_step
from vislex.training.trainer import PartTrainer

QUICK = ("caption, live", "caption, bf16", "caption, ladic", "ladic_few_step", "vilex_pretrain", "sft", "realign")
CUT = {"realign": ["max_length=10"]}  # most captions are longer, so that three steps meet the longest there can be


class Held:
    """What the last trainer of a run held in its steps."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.bytes: dict[str, int] = {}
        self.saved: list[int] = []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """Watches the steps of every trainer."""
    found = Held()
    compute, clip = PartTrainer.compute_loss, PartTrainer.create_optimizer

    def watched(self: PartTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
        attached = [*self.model.parameters(), *self.model.buffers()]
        attached += [own for module in self.model.__dict__.values() for own in _tensors(module)]
        watch = Watch({}, attached)
        saved = Saved(attached, watch.copies)
        with watch, saved.hooks:
            loss = compute(self, model, *args, **kwargs)
        found.saved.append(saved.bytes)
        return loss

    def kept(self: PartTrainer, *args: Any) -> Any:
        optimizer = clip(self, *args)
        found.rows = self.plan.to_dict()
        found.saved.clear()  # of a training before
        found.bytes["weights"] = tensor_bytes(self.model.parameters()) + tensor_bytes(self.model.buffers())

        def after(*_: Any) -> None:
            grads = [own.grad for own in self.model.parameters() if own.grad is not None]
            # not every step reaches all: LaDiC is shown its own prediction in some of them
            found.bytes["gradients"] = max(tensor_bytes(grads), found.bytes.get("gradients", 0))
            found.bytes["optimizer"] = sum(tensor_bytes(state.values()) for state in optimizer.state.values())

        optimizer.register_step_post_hook(after)
        return optimizer

    monkeypatch.setattr(PartTrainer, "compute_loss", watched)
    monkeypatch.setattr(PartTrainer, "create_optimizer", kept)
    return found


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()] if isinstance(module, torch.nn.Module) else []


def planned(runs: ModuleType, name: str, folder: Path, *overrides: str) -> tuple[Stage, Any]:
    recipe, config = runs.prepared(name, folder, *overrides)
    with outline():
        sketch = list(recipe.sketch(config))[-1]
    return Stage(sketch, bf16=config.precision == "bf16"), config


def check(runs: ModuleType, name: str, tmp_path: Path, held: Held) -> None:
    stage, config = planned(runs, name, tmp_path / "run", *CUT.get(name, []))
    trace = trace_step(stage, config.batch_size, device="cpu")
    memory = engine_memory("ddp", stage, trace, gpus=1)
    recipe, config = runs.prepared(name, tmp_path / "run", "steps=3", *CUT.get(name, []))
    recipe.run(config)
    assert stage.plan.to_dict() == held.rows
    assert {kind: getattr(memory, kind) for kind in held.bytes} == held.bytes
    assert trace.activations == pytest.approx(max(held.saved), rel=0.2)


@pytest.mark.parametrize("name", QUICK)
def test_a_training_holds_what_was_planned(name: str, runs: ModuleType, tmp_path: Path, held: Held) -> None:
    check(runs, name, tmp_path, held)


@pytest.mark.slow
def test_every_training_holds_what_was_planned(run_name: str, runs: ModuleType, tmp_path: Path, held: Held) -> None:
    check(runs, run_name, tmp_path, held)
