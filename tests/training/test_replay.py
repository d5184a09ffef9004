"""Operators alone: the calls of a traced step are those of a real one, and each is timed at its shapes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from vislex.config import load_config
from vislex.recipes import lm_pretrain
from vislex.recipes.lm_pretrain import LmPretrainConfig
from vislex.training import calibration
from vislex.training.calibration import Rates, _plain_attention, _Recorder, calibrate
from vislex.training.parts import PartSettings
from vislex.training.replay import Call, call_seconds, record
from vislex.training.settings import TrainingSettings
from vislex.training.sketch import Sketch, Stage
from vislex.training.trace import outline, trace_step

CPU = torch.device("cpu")
aten = torch.ops.aten


class Convs(PreTrainedModel):
    """Two convolutions whose numbers lie channels last."""

    config_class = PreTrainedConfig
    base_model_prefix = ""

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig())
        self.convs = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        self.convs.to(memory_format=torch.channels_last)
        self.post_init()

    def forward(self, x: torch.Tensor) -> ModelOutput:
        return ModelOutput(loss=self.convs(x).square().mean())


def bert(precision: str) -> Sketch:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=50, hidden_dropout_prob=0.0, **sizes))
    ids = torch.arange(24).view(2, 12)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return Sketch(TrainingSettings(precision=precision), model, {"bert": PartSettings()}, lambda n, typical: batch)  # type: ignore[arg-type]


def convs(precision: str) -> Sketch:
    settings = TrainingSettings(precision=precision)  # type: ignore[arg-type]
    return Sketch(settings, Convs(), {"convs": PartSettings()}, lambda n, typical: {"x": torch.rand(n, 4, 8, 8)})


def real_calls(stage: Stage) -> list[Call]:
    with _plain_attention(CPU), stage.computing(), _Recorder() as recorder:
        stage.loss(2, typical=True).backward()
    return recorder.calls


@pytest.mark.parametrize("make", [bert, convs])
@pytest.mark.parametrize("bf16", [False, True])
def test_calls_on_shapes_are_those_of_a_real_step(make: object, bf16: bool) -> None:
    precision = "bf16" if bf16 else "fp32"
    with outline():
        shapes = make(precision)  # type: ignore[operator]
    traced = trace_step(Stage(shapes, bf16=bf16), 2, typical=True, device="cpu").calls
    real = real_calls(Stage(make(precision), bf16=bf16))  # type: ignore[operator]
    costly = [Counter(call.key for call in calls if call.cost.kind != "none") for calls in (traced, real)]
    apart = sum(((costly[0] - costly[1]) + (costly[1] - costly[0])).values())
    assert apart <= (0.15 if bf16 else 0.1) * len(real)  # layer norms keep other statistics on shapes
    times = call_seconds(traced, CPU)
    assert {call.key for call in traced if call.cost.kind != "none"} == set(times)
    assert all(seconds > 0 for seconds in times.values())


def test_what_takes_longer_is_told_to_take_longer() -> None:
    small, large = (torch.rand(size, size) for size in (16, 512))
    calls = [record(aten.mm.default, (own, own), {}, own) for own in (small, large, small)]
    times = call_seconds(calls, CPU)
    assert len(times) == 2  # equal calls once
    assert times[calls[1].key] > 3 * times[calls[0].key]
    assert call_seconds(calls, CPU, within=0.0) == {}
    before = torch.get_rng_state()
    noise = record(aten.rand.default, ([4],), {"device": torch.device("meta")}, torch.empty(4, device="meta"))
    assert set(call_seconds([noise], CPU)) == {noise.key}
    assert torch.equal(before, torch.get_rng_state())


def test_operators_look_up_by_the_numbers_they_had() -> None:
    table, ids = torch.rand(4, 3), torch.tensor([0, 3])
    call = record(aten.embedding.default, (table, ids), {}, table[ids])
    ids.fill_(9)  # outside the table
    assert call_seconds([call], CPU)
    outside = record(aten.embedding.default, (table, ids), {}, table[:2])
    assert call_seconds([outside], CPU) == {}  # refused, and told by rates
    free = record(aten.detach.default, (table,), {}, table)
    assert (call_seconds([free], CPU), free.args) == ({}, ())


def test_a_step_is_its_operators_alone_and_what_calls_take_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates("cpu", False, {"aten::mm": (1.0, 0.0, 0.0)}, {"memory": (2.0, 0.0, 0.0)}, 0.5, False, 0.25, "x")
    one = torch.rand(8, 8)
    calls = [record(aten.mm.default, (one, one), {}, one), record(aten.relu.default, (one,), {}, one)]
    monkeypatch.setattr(calibration, "LONGEST", 1e9)
    alone = sum(call_seconds(calls, CPU).values())
    assert rates.step_seconds(calls, accumulation=1, optimizer_bytes=0) == pytest.approx(1.0 + alone, abs=0.01)
    monkeypatch.setattr(calibration, "LONGEST", 0.0)  # nothing is run: rates tell
    assert rates.step_seconds(calls, accumulation=3, optimizer_bytes=8) == 3 * (1.0 + 2.0 + 2 * 0.5) + 2.0


def test_few_calls_tell_less_of_a_call_than_the_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_calling_seconds", lambda device: 1.0)
    guessed = calibrate(Stage(convs("fp32"), bf16=False), 2, CPU, measured_on="convs")
    assert 3 < guessed.call < 4  # four seconds a thousand times, beside some calls of next to nothing
    monkeypatch.setattr(calibration, "GUESSED_CALLS", 0)
    measured = calibrate(Stage(convs("fp32"), bf16=False), 2, CPU, measured_on="convs")
    assert measured.call == 1.0  # never less than in the small network


def test_texts_are_planned_as_they_are_mixed() -> None:
    """Half of the dialogues are long; the first of them are captions, the shortest there are."""
    config = load_config(LmPretrainConfig, None, ["budget=smoke", "train_size=64", "batch_size=24"])
    (sketch,) = lm_pretrain.sketch(config)
    typical, first = (sketch.batch(24, True)["input_ids"], sketch.batch(12, True)["input_ids"])
    assert typical.numel() == pytest.approx(2 * first.numel(), rel=0.35)
    bank_rows = sketch.batch(192, True)["input_ids"].shape[0] / 8
    assert typical.shape[0] == pytest.approx(bank_rows, abs=1.5)
