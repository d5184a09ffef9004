"""Backbones as ordinary checkpoints: transformers and timm open them without vislex and give the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from transformers import AutoImageProcessor, AutoModel, SiglipVisionModel

import vislex
from vislex.cli.main import main
from vislex.diffusion.t2i import TextToImage
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError, ConfigError
from vislex.exporting import export_backbone
from vislex.vilex import ViLex

Build = Callable[..., TextToImage]


def saved(t2i: TextToImage, folder: Path, encoder: Any) -> ViLex:
    torch.manual_seed(0)
    model = ViLex.from_parts(encoder=encoder, t2i=t2i, n_tokens=4).eval()
    with torch.no_grad():
        for parameter in model.encoder.backbone.parameters():  # biases too
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_a_siglip_tower_opens_in_transformers_and_timm(tiny_t2i: Build, tmp_path: Path, activation: str) -> None:
    torch.manual_seed(0)
    from vislex.encoders.hf import HFEncoder

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 12, "patch_size": 6}
    backbone = {"model_type": "siglip_vision_model", "intermediate_size": 50, "hidden_act": activation, **shape}
    half = (0.5, 0.5, 0.5)
    encoder = HFEncoder.create(backbone=backbone, mean=half, std=half, interpolation="bilinear").eval()
    model = saved(tiny_t2i("sd15"), tmp_path / "vilex", encoder)
    pixels = torch.rand(2, 3, 12, 12) * 2 - 1
    with torch.no_grad():
        expected = model.encoder.backbone(pixels)

    hf = export_backbone(tmp_path / "vilex", "hf", tmp_path / "hf")
    tower = SiglipVisionModel.from_pretrained(hf).eval()
    with torch.no_grad():
        output = tower(pixels)
    torch.testing.assert_close(output.last_hidden_state, expected.tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.pooler_output, expected.pooled, rtol=0, atol=1e-5)
    assert AutoImageProcessor.from_pretrained(hf).size == {"height": 12, "width": 12}
    card = (hf / "README.md").read_text()
    assert "were not" in card
    assert "text tower" in card
    assert "pooling head (kept as it was)" in card

    out = export_backbone(tmp_path / "vilex", "timm", tmp_path / "timm")
    ours = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(pixels), expected.tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(pixels), expected.pooled, rtol=0, atol=1e-5)
    data = resolve_model_data_config(ours)
    assert (data["input_size"], data["crop_pct"], data["crop_mode"]) == ((3, 12, 12), 1.0, "squash")
    assert (tuple(data["mean"]), tuple(data["std"]), data["interpolation"]) == (half, half, "bilinear")


def test_the_command_writes_nothing_of_vislex(
    tiny_t2i: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tiny_t2i("sd15"), tmp_path / "vilex", create_encoder("siglip-tiny", tiny=True))
    assert main(["export", str(tmp_path / "vilex"), "--to", "hf"]) == 0
    assert f"written to {tmp_path / 'vilex-hf'}" in capsys.readouterr().out
    config = json.loads((tmp_path / "vilex-hf/config.json").read_text())
    assert config["model_type"] == "siglip_vision_model"
    assert "vislex" not in json.dumps(config)
    assert SiglipVisionModel.from_pretrained(tmp_path / "vilex-hf").config.hidden_size == 32
    out = tmp_path / "elsewhere"
    assert main(["export", str(tmp_path / "vilex"), "--to", "timm", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(out)
    assert "vislex" not in (out / "config.json").read_text()


def test_a_timm_backbone_opens_in_both(tiny_t2i: Build, tmp_path: Path) -> None:
    encoder = vislex.create_encoder("timm:test_vit", image_size=64)
    model = saved(tiny_t2i("sd15"), tmp_path / "vilex", encoder)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.encoder.backbone(pixels).tokens
        wrapped = AutoModel.from_pretrained(export_backbone(tmp_path / "vilex", "hf", tmp_path / "hf")).eval()
        torch.testing.assert_close(wrapped(pixels).last_hidden_state[:, 1:], expected, rtol=0, atol=1e-5)
        out = export_backbone(tmp_path / "vilex", "timm", tmp_path / "timm")
        ours = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        torch.testing.assert_close(ours.forward_features(pixels)[:, 1:], expected, rtol=0, atol=1e-5)


def test_the_encoder_of_other_models(tmp_path: Path) -> None:
    encoder = create_encoder("siglip-tiny", tiny=True)
    encoder.save_pretrained(tmp_path / "encoder")
    out = export_backbone(tmp_path / "encoder", "hf", tmp_path / "hf")
    assert "Only the tower was trained" not in (out / "README.md").read_text()
    pixels = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        tokens = SiglipVisionModel.from_pretrained(out)(pixels).last_hidden_state
        torch.testing.assert_close(tokens, encoder(pixels).tokens)


def test_what_has_no_counterpart_is_refused(
    tiny_t2i: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t2i = tiny_t2i("sd15")
    saved(t2i, tmp_path / "fused", create_encoder("fused:siglip-tiny+efficientnet-lite0", tiny=True))
    saved(t2i, tmp_path / "clip", create_encoder("clip-b32", tiny=True))
    with pytest.raises(ConfigError, match="has no counterpart in hf"):
        export_backbone(tmp_path / "fused", "hf", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"'clip_vision_model' has no counterpart in timm.*use --to hf"):
        export_backbone(tmp_path / "clip", "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["export", str(tmp_path / "clip"), "--to", "onnx"]) == 2
    assert "unknown format 'onnx'" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        export_backbone(tmp_path, "hf", tmp_path / "out")


def test_the_shipped_vilex_gives_its_encoder(tmp_path: Path) -> None:
    assert main(["export", "vilex-siglip-tiny", "--to", "hf", "--out", str(tmp_path / "tower")]) == 0
    tower = SiglipVisionModel.from_pretrained(tmp_path / "tower").eval()
    encoder = create_encoder("vilex-siglip-tiny", pretrained=True, n_tokens=4)
    assert (encoder.spec.n_tokens, encoder.config.source["location"]) == (4, "vilex-siglip-tiny")
    pixels = torch.rand(2, 3, 48, 48) * 2 - 1
    with torch.no_grad():
        patches = tower(pixels).last_hidden_state
        torch.testing.assert_close(patches, encoder.backbone(pixels).tokens, rtol=0, atol=1e-5)
        before = create_encoder("siglip-tiny", pretrained=True)(pixels).tokens
    assert (patches - before).abs().max() > 0.1  # it was trained
