"""The recipe ``realign`` at smoke size: what is trained, the control, and how a host's dialogues become batches."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForImageTextToText, AutoProcessor

import vislex
import vislex.auto
from vislex.adapters.host_turns import host_batch, host_inputs, host_prompts
from vislex.adapters.hosts import host_family, load_host, part_digests, stored_tensors
from vislex.adapters.instructions import Example, Turn
from vislex.adapters.swap_report import SwapReport
from vislex.cli.main import main
from vislex.config import load_config
from vislex.errors import CheckpointError, ConfigError
from vislex.recipes.realign import RealignConfig, run, sketch
from vislex.training.callbacks import read_log
from vislex.training.shadow import Saved
from vislex.training.sketch import Stage
from vislex.training.trace import outline, trace_step

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "log_every=1", "lr=1e-2", "steps=4",
    "eval_every=4",
]  # fmt: skip


def realign(folder: Path, model: Path, *overrides: str) -> Path:
    return run(load_config(RealignConfig, None, [*SMALL, f"model={model}", f"output_dir={folder}", *overrides]))


def digests(folder: Path) -> dict[str, str]:
    parts = part_digests(host_family("llava"), stored_tensors(folder))
    return {part: own["sha256"] for part, own in parts.items()}


def changed(before: Path, after: Path) -> set[str]:
    old, new = digests(before), digests(after)
    return {part for part in old if old[part] != new[part]}


def test_the_connector_is_trained_and_the_control_gets_the_same(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    swapped, host = hosts
    folder = realign(tmp_path / "run", swapped, f"control={host}")
    assert changed(swapped, folder) == {"connector"}
    assert changed(host, folder / "control") == {"connector"}
    ours, theirs = (json.loads((place / "run.json").read_text()) for place in (folder, folder / "control"))
    different = {key for key, value in ours["config"].items() if theirs["config"][key] != value}
    assert different == {"model", "control", "output_dir"}
    losses = [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]
    assert losses[-1] < losses[0]
    assert 0 <= ours["figures"]["eval_vqa_exact"] <= 1
    assert {row["part"]: row["trainable"] > 0 for row in ours["parts"]} == {
        "model.vision_tower": False, "model.multi_modal_projector": True, "model.language_model": False,
        "lm_head": False,
    }  # fmt: skip
    assert SwapReport.load(folder) == SwapReport.load(swapped)
    with pytest.raises(CheckpointError, match="is no report of a swap"):
        SwapReport.load(folder / "control")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = host_inputs(processor, ["<image> what is shown ?"], [[Image.new("RGB", (20, 20))]])
    assert model(**inputs).logits.isfinite().all()
    assert f"vislex train realign budget=smoke seed=0 model={swapped}" in (folder / "README.md").read_text()


def test_other_parts_train_as_they_are_told(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    swapped, _ = hosts
    lora = realign(tmp_path / "lora", swapped, "parts.llm.mode=lora", "parts.connector.mode=frozen")
    assert changed(swapped, lora) == {"llm"}
    assert not any("lora" in name for name, _ in stored_tensors(lora))
    whole = realign(tmp_path / "whole", swapped, "parts.encoder.mode=full", "parts.encoder.lr=1e-3")
    assert changed(swapped, whole) == {"encoder", "connector"}
    frozen = [f"parts.{part}.mode=frozen" for part in ("connector", "encoder", "llm")]
    with pytest.raises(ConfigError, match="every part is frozen"):
        realign(tmp_path / "frozen", swapped, *frozen)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frozen_net_with_running_means_keeps_them(hosts: tuple[Path, Path], tmp_path: Path, precision: str) -> None:
    host, processor = load_host(hosts[1])
    encoder = vislex.create_encoder("efficientnet-lite0", tiny=True, seed=0)
    vislex.swap_encoder(host, processor, encoder).save_pretrained(tmp_path / "conv")
    folder = realign(tmp_path / "run", tmp_path / "conv", f"precision={precision}")
    assert any("running_mean" in name for name, _ in stored_tensors(folder))
    assert changed(tmp_path / "conv", folder) == {"connector"}


def test_a_hosts_batch_learns_answers_after_the_prompt_it_will_be_asked_with(hosts: tuple[Path, Path]) -> None:
    _, processor = load_host(hosts[0], torch.float32)
    examples = [
        Example((Turn("user", "<image>what is shown?"), Turn("assistant", "a dog")), (0,)),
        Example((Turn("user", "<image>describe the image."), Turn("assistant", "two red kites")), (0,)),
    ]
    images = [[Image.new("RGB", (20, 20), colour)] for colour in ("red", "blue")]
    batch = host_batch(host_family("llava"), processor, examples, images, max_length=8)
    prompts = host_prompts(processor, examples)
    assert prompts[0][1] == "a dog<|end|>"
    asked = host_inputs(processor, [prompt for prompt, _ in prompts], images)
    for row, (_, answer) in enumerate(prompts):
        learned = batch["labels"][row] != -100
        wanted = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        assert torch.equal(batch["input_ids"][row][learned], wanted)
        assert torch.equal(batch["labels"][row][learned], wanted)
        own = batch["input_ids"][row][batch["attention_mask"][row].bool() & ~learned]
        assert torch.equal(own, asked["input_ids"][row][asked["attention_mask"][row].bool()])


@pytest.mark.parametrize("family", vislex.list_hosts())
def test_a_hosts_step_is_planned_from_its_config_alone(family: str, tiny_hosts: ModuleType, tmp_path: Path) -> None:
    model, processor = tiny_hosts.build(family)
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = load_config(RealignConfig, None, [*SMALL, f"model={tmp_path}", "train_size=4", "batch_size=3"])
    with outline():
        planned = Stage(next(sketch(config)), bf16=False)
    trace = trace_step(planned, 3, device="cpu")
    real = Stage(next(sketch(config)), bf16=False)
    own = real.sketch.model
    saved = Saved([*own.parameters(), *own.buffers()])
    with saved.hooks, sdpa_kernel(SDPBackend.MATH):
        real.loss(3).backward()
    assert trace.activations == pytest.approx(saved.bytes, rel=0.01)
    assert {name: parameter.shape for name, parameter in planned.sketch.model.named_parameters()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }
    assert len(trace.reached) == sum(parameter.grad is not None for parameter in own.parameters())


def test_a_plan_tells_of_the_host_and_of_its_control(
    hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "76")
    swapped, host = hosts
    command = ["plan", "realign", f"model={swapped}", f"control={host}", "train_size=4", "--device", "h100", "--json"]
    assert main(command[:-1]) == 0
    table = capsys.readouterr().out
    assert main(command) == 0
    ours, theirs = json.loads(capsys.readouterr().out)
    assert (ours["title"], theirs["title"]) == ("realign", "realign, control")
    modes = [{row["part"]: row["mode"] for row in plan["parts"]} for plan in (ours, theirs)]
    assert modes[0] == modes[1]
    assert modes[0]["model.multi_modal_projector"] == "full"
    assert ours["memory"]["ddp"]["weights"] != theirs["memory"]["ddp"]["weights"]  # another encoder
    assert table.count("┃ parameters ┃ trainable ┃ forward ┃ backward ┃") == 2  # whole, beside parts of long names


def test_typical_samples_are_no_longer_than_the_longest(hosts: tuple[Path, Path]) -> None:
    own = next(sketch(load_config(RealignConfig, None, [*SMALL, f"model={hosts[0]}", "train_size=20"])))
    one, many, longest = (own.batch(n, typical)["input_ids"] for n, typical in ((1, True), (16, True), (2, False)))
    assert one.shape[1] < many.shape[1] <= longest.shape[1]
    assert [len(ids) for ids in (one, many, longest)] == [1, 16, 2]


def test_without_its_data_a_plan_says_what_it_assumes(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    absent = f"mixture=[{{task: chat, data: {tmp_path / 'absent.json'}}}]"
    own = next(sketch(load_config(RealignConfig, None, [*SMALL, f"model={hosts[0]}", "max_length=30", absent])))
    (note,) = own.notes
    assert "absent.json" in note
    assert "640 x 480" in note
    assert (own.batch(2, False)["labels"] != -100).sum(1).tolist() == [30, 30]
