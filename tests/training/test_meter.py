"""The meter: counts without padding, shares of the time that add up, MFU only where the device is known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from vislex.training import meter as module
from vislex.training.callbacks import ProgressCallback, read_log
from vislex.training.meter import Meter, batch_counts, image_tokens_of, join_spans, peak_flops
from vislex.training.trainer import PartTrainer


def test_tokens_are_counted_without_padding_and_images_apart() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    ids = torch.tensor([[5, 9, 9], [5, 0, 0]])
    captions = batch_counts({"input_ids": ids, "attention_mask": mask, "vision_tokens": torch.zeros(2, 7, 4)})
    assert captions == {"images": 2, "text_tokens": 4, "image_tokens": 14}
    spliced = batch_counts(
        {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.zeros(1, 3, 8, 8)}, image_token_id=9
    )
    assert spliced == {"images": 1, "text_tokens": 2, "image_tokens": 2}
    masked = torch.tensor([[True, True, False]])
    assert batch_counts({"vision_tokens": torch.zeros(1, 3, 4), "vision_mask": masked})["image_tokens"] == 2
    vilex = batch_counts({"pixel_values": torch.zeros(2, 3, 8, 8), "counts": torch.tensor([4, 1])})
    assert vilex == {"images": 2, "image_tokens": 5}
    assert batch_counts({"pixel_values": torch.zeros(2, 3, 8, 8)}, tokens_per_image=16)["image_tokens"] == 32
    assert batch_counts({"input_ids": ids}) == {"images": 0, "text_tokens": 6}


def test_shares_of_the_time_are_those_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    meter = Meter()
    with meter.waiting_for_data():
        spend(1)
    with meter.part("step"):
        with meter.part("forward"):
            spend(2)
        spend(4)
    with meter.part("optimizer"):
        spend(1)
    with meter.paused():
        spend(100)
    spend(2)
    meter.add({"samples": 20, "images": 20, "text_tokens": torch.tensor(50)})
    figures = meter.read()
    shares = {name: figures[name] for name in ("data_wait", "forward", "backward", "optimizer")}
    assert shares == pytest.approx({"data_wait": 0.1, "forward": 0.2, "backward": 0.4, "optimizer": 0.1})
    assert (figures["samples_per_second"], figures["text_tokens_per_second"]) == (2, 5)
    assert "image_tokens_per_second" not in figures
    assert "mfu" not in figures
    spend(10)
    meter.add({"samples": 10})
    later = meter.read(lambda counts: 2 * counts)  # of two processes
    assert later["samples_per_second"] == 2
    assert meter.total_samples == 40
    figures["peak_memory_mb"], later["peak_memory_mb"] = 7.0, 5.0
    joined = join_spans([{"loss": 1.0}, figures, later])
    assert joined["text_tokens_per_second"] == 2.5
    assert joined["forward"] == pytest.approx(0.1)
    assert (joined["samples_per_second"], joined["seconds"], joined["peak_memory_mb"]) == (2, 20, 7)
    assert "loss" not in joined
    assert join_spans([{"loss": 1.0}]) == {}


def test_operations_are_counted_with_frozen_parts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    frozen_below, frozen_above, trained = (nn.Linear(8, 8, bias=False) for _ in range(3))
    for layer in (frozen_below, frozen_above):
        layer.requires_grad_(False)
    meter = Meter(peak=1e6)
    for _ in range(2):  # only the first one is counted
        with meter.counting_flops(4):
            frozen_above(trained(frozen_below(torch.randn(4, 8)))).sum().backward()
    # 2 N, no backward; 2 N and 2 N for the gradient that passes through; 2 N and 2 N for its own gradient.
    assert meter.flops_per_sample == (2 + 4 + 4) * 64
    now[0] = 0.01
    meter.add({"samples": 4})
    assert meter.read(lambda counts: 8 * counts)["mfu"] == pytest.approx(4 * 640 / 0.01 / 1e6)  # of this process


def test_only_devices_of_the_table_have_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops(torch.device("cpu"), "bfloat16") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    assert peak_flops(torch.device("cuda"), "bfloat16") == 312e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Unheard-of 1")
    assert peak_flops(torch.device("cuda"), "bfloat16") is None


def test_a_model_tells_the_tokens_of_its_images() -> None:
    import vislex

    captioner = nn.Module()
    captioner.encoder = vislex.create_encoder("siglip-tiny", tiny=True, seed=0)
    assert image_tokens_of(captioner) == captioner.encoder.spec.n_tokens
    assert image_tokens_of(nn.Linear(2, 2)) is None


def test_a_training_tells_its_cost_in_bar_and_log(
    make_trainer: Callable[..., PartTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vislex.training.trainer.peak_flops", lambda device, dtype: 1e9)
    trainer = make_trainer()
    trainer.fit()
    entry = next(entry for entry in read_log(trainer.folder / "training.jsonl") if "loss" in entry)
    names = ("data_wait", "forward", "backward", "optimizer")
    assert all(0 <= entry[name] <= 1 for name in names)
    assert sum(entry[name] for name in names) <= 1
    assert entry["mfu"] > 0
    assert entry["text_tokens_per_second"] == pytest.approx(6 * entry["samples_per_second"])
    assert json.dumps(trainer.cost)
    assert trainer.meter.total_samples == 6 * 4


@pytest.mark.parametrize(("known", "shown"), [({}, "MFU n/a"), ({"mfu": 0.41}, "MFU 41%")])
def test_the_bar_shows_speed_and_says_where_utilisation_is_unknown(known: dict[str, float], shown: str) -> None:
    console = Console(record=True, width=200, force_terminal=True)
    bar = ProgressCallback("run", console)
    args, control = TrainingArguments(output_dir="unused", use_cpu=True), TrainerControl()
    state = TrainerState(is_world_process_zero=True, max_steps=2)
    bar.on_train_begin(args, state, control)
    logs = {"loss": 1.5, "images_per_second": 1234.5, "data_wait": 0.25, "peak_memory_mb": 512.0, **known}
    bar.on_log(args, state, control, logs=logs)
    bar.on_train_end(args, state, control)
    text = console.export_text()
    for part in ("loss 1.5", "images/s 1,234", "data wait 25%", "MB 512", shown):
        assert part in text


def test_memory_is_that_of_the_process() -> None:
    before = module.peak_memory()
    kept = torch.ones(2**24)
    assert module.peak_memory() >= before
    assert len(kept)
