"""The trainer: resuming changes nothing, the average is what is validated and saved, figures are written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vislex.training.callbacks import mean_loss, read_log
from vislex.training.settings import TrainingSettings, uses_bf16
from vislex.training.trainer import PartTrainer, bf16_call

Make = Callable[..., PartTrainer]


def weights(trainer: PartTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def interrupt_at(trainer: PartTrainer, step: int) -> None:
    """Leaves ``trainer``'s folder as a run that was stopped after ``step``."""
    trainer.fit()
    for checkpoint in (trainer.folder / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(
    make_trainer: Make, ema_decay: float
) -> None:
    whole = make_trainer("whole", ema_decay=ema_decay)
    whole.fit()
    interrupt_at(make_trainer("cut", ema_decay=ema_decay), 3)
    resumed = make_trainer("cut", ema_decay=ema_decay)
    resumed.fit()
    assert resumed.meter.total_samples == 3 * 4  # it did not start anew
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    losses = [[e["loss"] for e in read_log(t.folder / "training.jsonl") if "loss" in e] for t in (whole, resumed)]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


def test_figures_are_of_the_whole_training_however_often_it_stopped(make_trainer: Make) -> None:
    whole = make_trainer("whole").fit()
    interrupt_at(make_trainer("cut"), 3)
    resumed, again = make_trainer("cut"), make_trainer("cut")
    found = resumed.fit()
    nothing_left = again.fit()
    assert resumed.meter.total_samples == 3 * 4
    assert again.meter.total_samples == 0
    entries = [entry for entry in read_log(resumed.folder / "training.jsonl") if "loss" in entry]
    for figures in (found, nothing_left):
        assert figures["loss"] == pytest.approx(whole["loss"])
        assert figures["seconds"] >= sum(entry["seconds"] for entry in entries)
        assert figures["samples_per_second"] == pytest.approx(6 * 4 / figures["seconds"])
    assert nothing_left["seconds"] == pytest.approx(found["seconds"], abs=0.5)
    for run in (resumed, again):
        assert run.cost["text_tokens_per_second"] == pytest.approx(6 * 6 * 4 / run.cost["seconds"])
        assert run.cost["peak_memory_mb"] >= max(entry["peak_memory_mb"] for entry in entries)
    assert mean_loss([{"step": 3, "eval_figure": 1.0}], otherwise=7.0) == 7.0


def test_the_average_is_validated_and_left_in_the_model(make_trainer: Make) -> None:
    seen: list[torch.Tensor] = []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append(model.transformer.wpe.weight.clone())
        return {"figure": 0.5}

    trainer = make_trainer(validate=validate, ema_decay=0.9)
    raw = make_trainer("raw")
    figures = trainer.fit()
    raw.fit()
    assert figures["eval_figure"] == 0.5
    assert figures["samples_per_second"] > 0
    assert trainer.ema is not None
    final = trainer.model.transformer.wpe.weight
    assert torch.equal(final, trainer.ema.average["transformer.wpe.weight"])
    assert torch.equal(seen[-1], final)
    assert not torch.equal(final, raw.model.transformer.wpe.weight)
    assert len(seen) == 2


def test_the_log_holds_loss_rate_cost_and_validation(make_trainer: Make) -> None:
    trainer = make_trainer(validate=lambda model: {"loss": 1.0})
    trainer.fit()
    entries = read_log(trainer.folder / "training.jsonl")
    trained = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in trained] == [1, 2, 3, 4, 5, 6]
    assert {"learning_rate", "samples_per_second", "data_wait", "peak_memory_mb", "backward"} <= set(trained[0])
    assert [entry["step"] for entry in entries if "eval_loss" in entry] == [3, 6]
    assert trained[-1]["loss"] < trained[0]["loss"]


def test_bf16_computes_in_bf16_and_gives_fp32_gradients_close_to_fp32() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 1))
    x = torch.randn(16, 32)
    exact = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    output = bf16_call(model, input=x)
    assert output.dtype == torch.bfloat16
    close = torch.autograd.grad(output.float().square().mean(), list(model.parameters()))
    for a, b in zip(exact, close, strict=True):
        assert b.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99


def test_frozen_weights_are_cast_once_and_trained_ones_each_time() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    frozen: dict[str, torch.Tensor] = {}
    x = torch.randn(2, 4)
    first = bf16_call(model, frozen=frozen, input=x)
    assert set(frozen) == {"0.weight", "0.bias"}
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(1.0)
    second = bf16_call(model, frozen=frozen, input=x)
    assert not torch.equal(first, second)
    assert torch.equal(second, torch.ones_like(second))
    second.sum().backward()
    assert model[1].bias.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_bf16_leaves_norms_with_running_means_as_they_are(training: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3)).train(training)
    x = torch.randn(4, 3, 8, 8)
    exact = model(x)
    kept = {name: value.clone() for name, value in model[1].named_buffers()}
    output = bf16_call(model, input=x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=2e-2)
    assert model[1].running_mean.dtype == torch.float32
    assert torch.equal(model[1].running_mean, kept["running_mean"]) == (not training)
    output.sum().backward()
    assert model[1].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("option", [{"data_workers": 2}, {"activation_checkpointing": True}])
def test_workers_and_checkpointing_change_no_byte(make_trainer: Make, option: dict[str, Any]) -> None:
    plain = make_trainer("plain")
    plain.fit()
    other = make_trainer("other", **option)  # now: it starts from its seed
    ran: list[int] = []
    other.model.transformer.h[0].ln_1.register_forward_hook(lambda *_: ran.append(1))
    other.fit()
    assert len(ran) == 6 * (2 if "activation_checkpointing" in option else 1)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in weights(plain).items())


def test_bf16_and_checkpointing_go_together(make_trainer: Make) -> None:
    plain = make_trainer("plain", precision="bf16")
    plain.fit()
    other = make_trainer("other", precision="bf16", activation_checkpointing=True)
    other.fit()
    assert other.args.bf16  # by autocast: copies of the weights would be gone when a layer runs again
    assert not plain.args.bf16
    losses = [[e["loss"] for e in read_log(t.folder / "training.jsonl") if "loss" in e] for t in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(make_trainer: Make) -> None:
    plain = make_trainer("plain")
    plain.fit()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = make_trainer("compiled", compile="aot_eager")
    compiled.fit()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    for name, value in weights(plain).items():
        torch.testing.assert_close(compiled.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_precision_can_be_chosen() -> None:
    assert uses_bf16(TrainingSettings(precision="bf16", device="cpu"))
    assert not uses_bf16(TrainingSettings(precision="fp32", device="cpu"))
