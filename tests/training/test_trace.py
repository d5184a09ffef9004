"""Steps on shapes: operations of frozen and trained parts, what is kept, shards, rates, against counts by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from vislex.device_table import get_device
from vislex.errors import ConfigError, DataError
from vislex.training.calibration import Rates, _terms, calibrate, read_rates, write_rates
from vislex.training.costs import Cost
from vislex.training.memory import engine_memory, sharded
from vislex.training.parts import PartSettings
from vislex.training.plan import make_plans
from vislex.training.recipe import Recipe
from vislex.training.settings import TrainingSettings
from vislex.training.shadow import Shadow
from vislex.training.sketch import Sketch, Stage
from vislex.training.trace import outline, trace_step

WIDTH, SAMPLES = 32, 4


class Three(PreTrainedModel):
    """Three layers, one after the other."""

    config_class = PreTrainedConfig
    base_model_prefix = ""

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig())
        self.first, self.second, self.third = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.post_init()

    def forward(self, x: torch.Tensor) -> ModelOutput:
        return ModelOutput(loss=self.third(self.second(self.first(x))).square().mean())


def three(*modes: str, **settings: Any) -> Sketch:
    parts = {
        name: PartSettings(mode=mode)
        for name, mode in zip(("first", "second", "third"), modes, strict=True)  # type: ignore[arg-type]
    }
    values = {"batch_size": SAMPLES, "precision": "fp32", **settings}
    return Sketch(TrainingSettings(**values), Three(), parts, lambda n, typical: {"x": torch.rand(n, WIDTH)})


def staged(*modes: str, **settings: Any) -> Stage:
    with outline():
        sketch = three(*modes, **settings)
    return Stage(sketch, bf16=settings.get("precision") == "bf16")


@pytest.mark.parametrize("modes", list(itertools.product(("frozen", "full"), repeat=3))[1:])
def test_operations_of_frozen_and_trained_parts(modes: tuple[str, ...]) -> None:
    """A product forward; one for the weights if they are trained, one for the input if something below is."""
    trace = trace_step(staged(*modes), SAMPLES, device="cpu")
    product = 2 * SAMPLES * WIDTH * WIDTH
    for place, (name, mode) in enumerate(zip(("first", "second", "third"), modes, strict=True)):
        assert trace.flops[(name, "forward")] == product
        backward = (mode == "full") + ("full" in modes[:place])
        assert trace.flops.get((name, "backward"), 0) == backward * product, name


def test_running_layers_twice_costs_a_forward_and_keeps_less() -> None:
    def stage(checkpointing: bool) -> Stage:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        settings = TrainingSettings(precision="bf16", activation_checkpointing=checkpointing)
        with outline():
            model = BertForMaskedLM(BertConfig(vocab_size=50, **sizes))
            ids = {"input_ids": torch.ones(SAMPLES, 16, dtype=torch.long), "labels": torch.ones(SAMPLES, 16).long()}
            sketch = Sketch(settings, model, {"bert": PartSettings()}, lambda n, typical: dict(ids))
        return Stage(sketch, bf16=True)

    plain, twice = (trace_step(stage(again), SAMPLES, device="cuda") for again in (False, True))
    assert twice.activations < 0.6 * plain.activations
    extra = twice.flops[("bert", "backward")] - plain.flops[("bert", "backward")]
    assert 0.8 * plain.flops[("bert", "forward")] < extra <= plain.flops[("bert", "forward")]


def test_whole_numbers_stay_real_and_what_shapes_do_not_tell_is_refused() -> None:
    with outline():
        ids, weights = torch.arange(6), torch.zeros(6, 3)
        assert (ids.device.type, weights.device.type) == ("cpu", "meta")
        assert weights[ids > 3].shape == (2, 3)
        assert float(weights.sum()) == 1.0
        assert torch.tensor([0.25, 0.5]).tolist() == [0.25, 0.5]
        with pytest.raises(ConfigError, match="shapes do not tell"):
            (weights > 0).nonzero()
    assert not isinstance(torch.utils._python_dispatch._get_current_dispatch_mode(), Shadow)


def test_memory_of_the_engines() -> None:
    stage = staged("frozen", "full", "full", ema_decay=0.9)
    trace = trace_step(stage, SAMPLES, device="cpu")
    weights, trained = 3 * (WIDTH + 1) * WIDTH * 4, 2 * (WIDTH + 1) * WIDTH * 4
    ddp = engine_memory("ddp", stage, trace, 4)
    assert (ddp.weights, ddp.gradients, ddp.optimizer, ddp.average) == (weights, trained, 2 * trained + 4 * 4, trained)
    assert ddp.communication == trained
    assert engine_memory("ddp", stage, trace, 1).communication == 0
    fsdp = engine_memory("fsdp2", stage, trace, 4)
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (weights // 4, trained // 4, trained // 2 + 4 * 4)
    first, second, third = (engine_memory(f"zero{level}", stage, trace, 4) for level in (1, 2, 3))
    assert (first.weights, first.gradients, first.optimizer) == (weights, trained, 3 * trained // 4)
    assert (second.weights, second.gradients) == (weights, trained // 4)
    assert (third.weights, third.gradients) == (weights // 4, trained // 4)
    assert ddp.total == ddp.fixed + ddp.activations + ddp.temporary


@pytest.mark.parametrize(("shape", "gpus"), [((7, 3), 4), ((2, 5), 4), ((8,), 8), ((), 2)])
def test_shards_are_those_of_torch(shape: tuple[int, ...], gpus: int) -> None:
    parameter = torch.zeros(shape)
    expected = parameter.shape if parameter.ndim == 0 else parameter.chunk(gpus)[0].shape
    assert sharded(parameter, gpus) == expected


def plan(batch_size: int = 4096, **options: Any) -> Any:
    modes = ("frozen", "full", "full")
    recipe = Recipe(
        TrainingSettings, lambda config: Path(), lambda config: iter([three(*modes, batch_size=config.batch_size)])
    )
    (made,) = make_plans("three", recipe, TrainingSettings(batch_size=batch_size, precision="fp32"), **options)
    return made


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    made = plan(device=get_device("t4"))
    usable, largest = 0.92 * 16 * 2**30, made.largest_batch["ddp"]

    def total(samples: int) -> int:
        stage = staged("frozen", "full", "full")
        return engine_memory("ddp", stage, trace_step(stage, samples, device="cuda"), 1).total

    assert 0.97 * usable < total(largest) <= 1.001 * usable
    assert made.engine == "ddp"
    assert plan(device=get_device("t4"), batch_size=2 * largest).engine is None


def test_time_is_a_range_of_the_device_and_falls_with_its_speed() -> None:
    slow, fast = plan(device=get_device("t4")), plan(device=get_device("h100"))
    for made in (slow, fast):
        assert 0 < made.seconds[0] < made.seconds[1]
        assert made.dollars[0] == pytest.approx(made.hours[0] * get_device(made.device).price)
        assert 0 < made.mfu[0] < made.mfu[1] < 1
    assert plan(device=get_device("h100"), price=1.0).dollars[0] == pytest.approx(fast.hours[0])
    assert plan().seconds is None
    several = plan(device=get_device("h100"), gpus=8)
    assert several.seconds[1] > fast.seconds[1]  # what is sent


def test_rates_are_found_again() -> None:
    calls = [
        (Cost("product", flops, moved), 2e-6 + 3e-12 * flops + 5e-11 * moved)
        for flops, moved in [(10**6, 10**4), (10**8, 10**5), (10**7, 10**6), (10**9, 10**6), (10**5, 10**3)]
    ]
    assert _terms(calls) == pytest.approx((2e-6, 3e-12, 5e-11), rel=1e-3)
    assert _terms([(Cost("memory", 0, 100), 1e-6)] * 4)[0] >= 0


def test_calibration_runs_real_steps_and_is_remembered(tmp_path: Path) -> None:
    sketch = three("frozen", "full", "full")
    stage = Stage(sketch, bf16=False)
    before = sketch.model.third.weight.detach().clone()
    rates = calibrate(stage, SAMPLES, torch.device("cpu"), measured_on="three")
    assert not torch.equal(before, sketch.model.third.weight)
    assert len(rates.seconds) == 3
    write_rates(tmp_path / "here" / "rates.json", rates)
    again = read_rates(tmp_path / "here" / "rates.json")
    assert isinstance(again, Rates)
    assert again.call == rates.call
    made = plan(rates=again)
    assert made.seconds[0] == made.seconds[1] > 0
    huge = json.dumps({"operators": {"aten::mm": [10**400]}, "kinds": {}})
    for bad in ("{}", "[" * 100_000, huge):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(DataError, match="--calibrate"):
            read_rates(tmp_path / "bad.json")
