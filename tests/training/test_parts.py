"""Parts: frozen, LoRA and full, each with its own learning rate."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from torch import nn

from vislex.errors import ConfigError
from vislex.training.parts import PartSettings, merge_lora, parts_table, prepare_parts


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.decoder = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.decoder_extra = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder_extra(self.decoder(self.encoder(x))) * self.scale


def grouped(model: nn.Module, groups: list[dict]) -> dict[str, dict]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


def test_each_part_has_its_mode_and_rate_and_the_rest_is_trained() -> None:
    model = Pair()
    parts = {"encoder": PartSettings(mode="frozen"), "decoder": PartSettings(lr=1e-4)}
    plan = prepare_parts(model, parts, lr=1e-3, weight_decay=0.1)
    found = grouped(model, plan.groups)
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoder.") for name in found)
    assert found["decoder.0.weight"]["lr"] == 1e-4
    assert found["decoder_extra.weight"]["lr"] == 1e-3  # a prefix of letters is not a part
    assert found["decoder.0.weight"]["weight_decay"] == 0.1
    assert found["decoder.0.bias"]["weight_decay"] == found["scale"]["weight_decay"] == 0.0
    rows = {row.part: row for row in plan.rows}
    assert rows["encoder"].trainable == 0
    assert rows["encoder"].parameters == 28
    console = Console(record=True, width=100)
    console.print(parts_table(plan))
    assert "0.0001" in (text := console.export_text())
    assert "(rest)" in text


def test_what_is_frozen_stays_in_eval_mode() -> None:
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4))),
            "adapted": nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)),
            "trained": nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)),
            "encoder_extra": nn.Dropout(),
        }
    )
    parts = {
        "": PartSettings(), "encoder": PartSettings(mode="frozen"), "encoder.1": PartSettings(),
        "adapted": PartSettings(mode="lora", lora_rank=1),
    }  # fmt: skip
    plan = prepare_parts(model, parts, lr=1e-3, weight_decay=0.0)
    model.train()
    plan.hold()
    still = {name for name, module in model.named_modules() if not module.training}
    assert still == {"encoder", "encoder.0", "adapted.2"}


def test_lora_adapts_its_part_alone_and_merges_to_the_same_function() -> None:
    torch.manual_seed(0)
    model = Pair()
    before = {name: p.clone() for name, p in model.named_parameters()}
    parts = {
        "encoder": PartSettings(mode="lora", lr=1e-2, lora_rank=2),
        "decoder": PartSettings(mode="lora", lr=3e-2, lora_rank=1, lora_targets=["1"]),
        "decoder_extra": PartSettings(),
    }
    plan = prepare_parts(model, parts, lr=1e-3, weight_decay=0.0)
    found = grouped(model, plan.groups)
    adapters = [name for name in found if "lora_" in name]
    assert {name.split(".")[0] for name in adapters} == {"encoder", "decoder"}
    assert not any(name.startswith("decoder.0") for name in found)
    assert {found[name]["lr"] for name in adapters if name.startswith("decoder")} == {3e-2}
    assert "decoder_extra.weight" in found
    x = torch.randn(8, 4)
    optimizer = torch.optim.SGD(plan.groups, lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for name in adapters:
        assert found[name]["params"]
        assert dict(model.named_parameters())[name].grad is not None
    trained = model(x)
    assert merge_lora(model) == 2
    assert set(dict(model.named_parameters())) == set(before)
    torch.testing.assert_close(model(x), trained)
    assert not torch.equal(model.encoder[0].weight, before["encoder.0.weight"])
    assert not torch.equal(model.decoder[1].weight, before["decoder.1.weight"])
    assert torch.equal(model.decoder[0].weight, before["decoder.0.weight"])


def test_impossible_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'encodr'.*did you mean 'encoder'"):
        prepare_parts(Pair(), {"encodr": PartSettings()}, lr=1e-3, weight_decay=0.0)
    lora = PartSettings(mode="lora", lora_targets=["q_proj"])
    with pytest.raises(ConfigError, match="no linear layer"):
        prepare_parts(Pair(), {"encoder": lora}, lr=1e-3, weight_decay=0.0)
    with pytest.raises(ConfigError, match="every part is frozen"):
        prepare_parts(nn.Sequential(nn.Linear(2, 2)), {"0": PartSettings(mode="frozen")}, lr=1e-3, weight_decay=0.0)
