"""The guides' Python runs, on small models of the same classes in place of the hub's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

DOCS = Path(__file__).parents[1] / "docs"
HALF = [0.5, 0.5, 0.5]


def blocks(guide: str) -> list[str]:
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(encoding="utf-8"), flags=re.DOTALL)


def execute(guide: str) -> dict[str, Any]:
    """Runs all of a page, in the current folder, and gives the names that it leaves."""
    names: dict[str, Any] = {}
    for block in blocks(guide):
        exec(compile(block, f"docs/{guide}", "exec"), names)
    return names


def folders(root: Path, hosts: Any) -> None:
    """What the guide takes from a hub, as folders of the same names."""
    names = {"google/paligemma2-3b-pt-224": "paligemma", "HuggingFaceTB/SmolVLM-256M-Instruct": "smolvlm"}
    for name, host in names.items():
        for part in hosts.build(host):
            part.save_pretrained(root / name)
    torch.manual_seed(0)
    dinov2 = Dinov2Config(**hosts.VISION, image_size=20, patch_size=5)
    Dinov2Model(dinov2).save_pretrained(root / "facebook/dinov2-base")
    crop = {"height": 20, "width": 20}
    BitImageProcessor(size={"shortest_edge": 20}, crop_size=crop).save_pretrained(root / "facebook/dinov2-base")
    vision = {**hosts.VISION, "image_size": 20, "patch_size": 5}
    siglip = SiglipConfig(vision_config=vision, text_config={**hosts.VISION, "vocab_size": 9})
    SiglipModel(siglip).save_pretrained(root / "google/siglip-base-patch16-512")
    SiglipImageProcessor(size=crop, image_mean=HALF, image_std=HALF).save_pretrained(
        root / "google/siglip-base-patch16-512"
    )


def test_the_encoder_is_replaced_in_ten_lines() -> None:
    assert len([line for line in blocks("replace_the_encoder.md")[0].splitlines() if line.strip()]) <= 10


def test_the_code_of_replacing_an_encoder_runs(
    tiny_hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path, tiny_hosts)
    monkeypatch.chdir(tmp_path)
    losses = execute("replace_the_encoder.md")["losses"]
    said = capsys.readouterr().out
    assert "connector is new - retrain: required" in said
    assert "16 tokens an image" in said
    assert "own ['the encoder's', 'kept', 'kept']" in said.replace('"', "'")
    assert "vislex_smolvlm" in said
    assert losses[-1] < losses[0]
    assert {path.name for path in tmp_path.glob("*/swap.json")} == {"swap.json"}


def test_the_code_of_vilex_runs(
    tiny_t2i: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_t2i("sd21").save_pretrained(tmp_path / "stabilityai/stable-diffusion-2-1-base")
    monkeypatch.chdir(tmp_path)
    names = execute("vilex.md")
    assert len(re.findall(r"^\d [\d.]+ \[", capsys.readouterr().out, flags=re.MULTILINE)) == 4
    assert {path.name for path in tmp_path.glob("*.png")} == {"1-tokens.png", "4-tokens.png", "8-tokens.png"}
    assert names["drawn"].size == names["both"][0].size
    assert not list((tmp_path / "vilex").glob("*unet*"))


def test_the_code_of_finetuning_runs(
    beside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beside("tiny_lm").save(tmp_path / "HuggingFaceTB/SmolLM2-135M-Instruct")
    monkeypatch.chdir(tmp_path)
    names = execute("finetune.md")
    assert "vislex_vlm" in capsys.readouterr().out
    assert len(names["trained"]) > 0
    assert (names["adapters"] / "adapter_config.json").is_file()
