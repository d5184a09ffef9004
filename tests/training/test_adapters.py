"""Adapters of every variant on real models: they stay in their part, reload exactly, and merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import LlamaConfig, LlamaForCausalLM

from vislex.errors import CheckpointError, ConfigError
from vislex.training.adapters import adapter_base, open_adapters, save_adapters
from vislex.training.parts import PartSettings, PartsPlan, merge_lora, prepare_parts

IDS = torch.arange(12).reshape(2, 6)
VARIANTS = ["lora", "dora", "rslora", "pissa"]


def build() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, initializer_range=0.2, **shape)).eval()


def trained(model: Any, parts: dict[str, PartSettings], steps: int = 3) -> PartsPlan:
    plan = prepare_parts(model, parts, lr=3e-2, weight_decay=0.0)
    optimizer = torch.optim.Adam(plan.groups)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return plan


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_adapter_opens_with_plain_peft_and_merges(variant: str, tmp_path: Path) -> None:
    model, base = build(), build()
    start = logits(base)
    parts = {
        "model": PartSettings(mode="frozen"),
        "model.layers": PartSettings(mode="lora", lora_rank=2, lora_variant=variant),
        "model.norm": PartSettings(mode="frozen"),
        "lm_head": PartSettings(mode="frozen"),
    }
    adapted = copy.deepcopy(model)
    prepare_parts(adapted, parts, lr=1e-3, weight_decay=0.0)
    torch.testing.assert_close(logits(adapted), start, rtol=1e-4, atol=1e-4)  # nothing is changed before training
    plan = trained(model, parts)
    after = logits(model)
    assert (after - start).abs().max() > 1e-2
    save_adapters(model, plan, tmp_path / "adapter", base="somewhere")
    assert adapter_base(tmp_path / "adapter") == "somewhere"
    opened = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    tolerance = 1e-4 if variant == "pissa" else 0.0
    torch.testing.assert_close(logits(opened), after, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(logits(opened.merge_and_unload()), after, rtol=1e-4, atol=1e-5 + tolerance)
    assert merge_lora(model) == 14
    torch.testing.assert_close(logits(model), after, rtol=1e-4, atol=1e-5)


def test_parts_trained_whole_stand_in_the_same_folder(tmp_path: Path) -> None:
    model, base = build(), build()
    parts = {
        "model": PartSettings(mode="frozen"),
        "model.layers": PartSettings(mode="lora", lora_rank=2),
        "model.norm": PartSettings(),
        "lm_head": PartSettings(mode="frozen"),
    }
    plan = trained(model, parts)
    save_adapters(model, plan, tmp_path, base="x")
    opened = open_adapters(base, tmp_path)
    assert torch.equal(logits(opened), logits(model))
    assert not torch.equal(opened.get_base_model().model.norm.weight, build().model.norm.weight)


def test_several_adapters_switch_at_run_time(tmp_path: Path) -> None:
    expected = {}
    for name, steps in (("a", 2), ("b", 5)):
        model = build()
        parts = {"model": PartSettings(mode="lora", lora_rank=2), "lm_head": PartSettings(mode="frozen")}
        save_adapters(model, trained(model, parts, steps), tmp_path / name, base="x")
        expected[name] = logits(model)
    opened = open_adapters(build(), tmp_path / "a", name="a")
    opened.load_adapter(str(tmp_path / "b"), adapter_name="b")
    for name in ("b", "a", "b"):
        opened.set_adapter(name)
        assert torch.equal(logits(opened), expected[name])
    with opened.disable_adapter():
        torch.testing.assert_close(logits(opened), logits(build()))


def test_a_tied_head_gets_no_adapter() -> None:
    model = build()
    prepare_parts(model, {"": PartSettings(mode="lora")}, lr=1e-3, weight_decay=0.0)
    adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    assert len(adapted) == 14
    assert "lm_head" not in adapted
    lora = PartSettings(mode="lora", lora_targets=["lm_head"])
    with pytest.raises(ConfigError, match="shares its weights with the input embeddings"):
        prepare_parts(build(), {"": lora}, lr=1e-3, weight_decay=0.0)


def test_lora_plus_gives_second_matrices_their_own_rate() -> None:
    model = build()
    settings = PartSettings(mode="lora", lr=1e-3, lora_plus_ratio=16)
    plan = prepare_parts(model, {"": settings}, lr=1.0, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in plan.groups for p in group["params"]}
    assert {rate for name, rate in rates.items() if ".lora_B." in name} == {1.6e-2}
    assert {rate for name, rate in rates.items() if ".lora_A." in name} == {1e-3}
    assert len(rates) == 28


def test_what_cannot_be_saved_or_opened_is_told(tmp_path: Path) -> None:
    model = build()
    plan = prepare_parts(model, {"model": PartSettings()}, lr=1e-3, weight_decay=0.0)
    with pytest.raises(ConfigError, match="no adapters to save"):
        save_adapters(model, plan, tmp_path, base="x")
    model = build()
    parts = {"model": PartSettings(mode="lora"), "lm_head": PartSettings(mode="frozen")}
    plan = prepare_parts(model, parts, lr=1e-3, weight_decay=0.0)
    save_adapters(model, plan, tmp_path, base="x")
    assert adapter_base(tmp_path / "nothing") is None
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        adapter_base(tmp_path)
    both = {"model": PartSettings(mode="lora"), "lm_head": PartSettings(mode="lora", lora_variant="dora")}
    with pytest.raises(ConfigError, match=r"lora_variant differs between parts \(dora, lora\)"):
        prepare_parts(build(), both, lr=1e-3, weight_decay=0.0)
    model = build()
    model.add_module("extra", torch.nn.Linear(1, 1))
    model.add_module("more", torch.nn.ModuleDict({"extra": torch.nn.Linear(1, 1)}))
    parts |= {"extra": PartSettings(), "more": PartSettings(mode="frozen")}
    plan = prepare_parts(model, parts, lr=1e-3, weight_decay=0.0)
    with pytest.raises(ConfigError, match="'extra' was trained in full and cannot be saved beside adapters"):
        save_adapters(model, plan, tmp_path / "two", base="x")
