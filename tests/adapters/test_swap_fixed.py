"""Hosts that build one kind of tower: weights that fit, subclasses that hold another, and Qwen-VL's rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import vislex
from vislex.adapters.hosts import host_family, load_host
from vislex.adapters.qwen_tower import from_rows, to_rows
from vislex.adapters.swap import SwapResult
from vislex.encoders.hf import HFEncoder
from vislex.encoders.hf_families import FAMILIES
from vislex.encoders.vilex import ViLexEncoder
from vislex.errors import CheckpointError, SpecError

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SQUARES = ("idefics3", "internvl", "smolvlm")
HALF = (0.5, 0.5, 0.5)


def picture(width: int = 44, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def prepare(result: SwapResult, *images: Image.Image) -> dict[str, Any]:
    text = f"{result.processor.image_token} " * len(images) + "what is shown ?"
    return dict(result.processor(images=[list(images)], text=[text], return_tensors="pt"))


def features(result: SwapResult, inputs: dict[str, Any]) -> Tensor:
    """float[tokens of all images, width]."""
    given = {key: inputs[key] for key in result.processor.image_processor.model_input_names if key in inputs}
    output = result.model.get_image_features(**given).pooler_output
    return torch.cat([image.reshape(-1, image.shape[-1]) for image in output])


def image_tokens(result: SwapResult, inputs: dict[str, Any]) -> int:
    return int((inputs["input_ids"] == result.model.config.image_token_id).sum())


def wide() -> Any:
    return vislex.create_encoder("siglip-b16-256", tiny=True, image_size=(16, 24))  # 4 x 6 tokens


def three_tokens() -> Any:
    encoder = ViLexEncoder.from_backbone(vislex.create_encoder("siglip-tiny", tiny=True), n_tokens=3, widths=[20])
    return encoder.eval()


@pytest.mark.parametrize("host", ["idefics3", "smolvlm"])
@torch.no_grad()
def test_a_siglips_weights_fit_the_towers_made_of_it(tiny_hosts: ModuleType, host: str, tmp_path: Path) -> None:
    backbone = {"model_type": "siglip_vision_model", **tiny_hosts.VISION, "image_size": 20, "patch_size": 5}
    encoder = HFEncoder.create(backbone=backbone, mean=HALF, std=(0.2, 0.3, 0.4), interpolation="bicubic").eval()
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms too
    result = vislex.swap_encoder(*tiny_hosts.build(host), encoder)
    assert (result.report.kind, result.report.needs_vislex) == ("own", False)
    assert [row["weights"] for row in result.report.parts] == ["the encoder's", "kept", "kept"]
    inputs = prepare(result, picture())
    tokens = encoder(inputs["pixel_values"][0]).tokens  # each tile of the image
    expected = result.model.model.connector(tokens).flatten(0, 1)
    torch.testing.assert_close(features(result, inputs), expected)
    assert list(result.processor.image_processor.image_std) == [0.2, 0.3, 0.4]
    result.save_pretrained(tmp_path)
    assert "vislex" not in (tmp_path / "config.json").read_text()

    narrow = {**backbone, "intermediate_size": 16}  # another architecture takes the tower's place
    other = HFEncoder.create(backbone=narrow, mean=HALF, std=HALF, interpolation="bicubic")
    assert vislex.swap_encoder(*tiny_hosts.build(host), other).report.kind == "wrapped"


@pytest.mark.parametrize("host", SQUARES)
@torch.no_grad()
def test_tiles_are_of_the_encoders_size_and_counted(tiny_hosts: ModuleType, host: str) -> None:
    for name, side, tokens in (("siglip", 16, 4), ("vilex-16", 12, 16), ("registers", 42, 9)):
        encoder = tiny_hosts.ENCODERS[name]()
        result = vislex.swap_encoder(*tiny_hosts.build(host), encoder)
        inputs = prepare(result, picture(60, 30), picture(30, 30))
        assert inputs["pixel_values"].shape[-2:] == (side, side)
        assert result.report.image_tokens == tokens  # a map of even sides is joined in fours, others stay
        tiles = inputs["pixel_values"].flatten(0, -4)
        tiles = tiles[(tiles != 0).flatten(1).any(1)]
        assert image_tokens(result, inputs) == len(features(result, inputs)) == tokens * len(tiles)


@pytest.mark.parametrize("host", SQUARES)
def test_tokens_that_fill_no_square_are_refused(tiny_hosts: ModuleType, host: str) -> None:
    model, processor = tiny_hosts.build(host)
    with pytest.raises(SpecError, match=r"a map of 4 x 6 tokens|takes 16 x 24 pixels"):
        vislex.swap_encoder(model, processor, wide())
    with pytest.raises(SpecError, match="this encoder gives 3 tokens; take one with a square"):
        vislex.swap_encoder(model, processor, three_tokens())
    assert "vislex" not in str(model.config.to_dict())
    assert not type(model).__name__.startswith("Swapped")


@pytest.mark.parametrize("host", QWEN)
@torch.no_grad()
def test_qwens_features_are_the_merged_tokens_of_the_encoder(tiny_hosts: ModuleType, host: str) -> None:
    for encoder, merge in ((wide(), 2), (three_tokens(), 1), (tiny_hosts.ENCODERS["registers"](), 1)):
        result = vislex.swap_encoder(*tiny_hosts.build(host), encoder)
        images = (picture(), picture(70, 20))
        inputs = prepare(result, *images)
        own = vislex.create_image_processor(encoder.spec)(list(images), return_tensors="pt")["pixel_values"]
        grid = encoder.spec.grid or (1, encoder.spec.n_tokens)
        assert inputs["image_grid_thw"].tolist() == [[1, *grid]] * 2
        assert torch.equal(from_rows(inputs["pixel_values"], encoder.spec.image_size, grid), own)
        tokens = encoder(own).tokens.unflatten(1, grid)
        cells = [
            image[row : row + merge, column : column + merge].flatten(0, 1)
            for image in tokens
            for row in range(0, grid[0], merge)
            for column in range(0, grid[1], merge)
        ]
        expected = torch.cat([result.model.model.visual.merger(cell) for cell in cells])
        torch.testing.assert_close(features(result, inputs), expected)
        assert image_tokens(result, inputs) == len(expected) == 2 * result.report.image_tokens


@pytest.mark.parametrize("host", QWEN)
@torch.no_grad()
def test_a_swapped_qwen_searches_in_beams_and_refuses_videos(tiny_hosts: ModuleType, host: str) -> None:
    result = vislex.swap_encoder(*tiny_hosts.build(host), tiny_hosts.ENCODERS["conv"]())
    inputs = prepare(result, picture())
    written = result.model.generate(**inputs, max_new_tokens=3, num_beams=2, do_sample=False)
    assert written.shape[1] <= inputs["input_ids"].shape[1] + 3
    assert any("videos are refused" in note for note in result.report.notes)
    assert any("DeepStack is off" in note for note in result.report.notes) == (host == "qwen3_vl")
    rows = torch.randn(2 * 4 * 4, 96)  # frames as the host's own video processor gives them
    with pytest.raises(SpecError, match="images alone, as its own processor gives them"):
        result.model.get_video_features(rows, torch.tensor([[2, 4, 4]]))


def test_rows_hold_images_of_any_size() -> None:
    for size, grid in (((5, 7), (1, 3)), ((8, 8), (4, 2)), ((3, 3), (1, 1))):
        images = torch.randn(2, 3, *size)
        rows = to_rows(images, grid)
        assert rows.shape[0] == 2 * grid[0] * grid[1]
        assert torch.equal(from_rows(rows, size, grid), images)


@pytest.mark.parametrize("host", QWEN)
@torch.no_grad()
def test_qwens_tower_is_an_encoder(tiny_hosts: ModuleType, host: str, tmp_path: Path) -> None:
    model, processor = tiny_hosts.build(host)
    model.save_pretrained(tmp_path / "host")
    processor.save_pretrained(tmp_path / "host")
    encoder = vislex.create_encoder(f"hf:{tmp_path / 'host'}", pretrained=True, image_size=(16, 24))
    assert (tuple(encoder.spec.grid), encoder.spec.dim, encoder.spec.mean) == ((4, 6), 16, HALF)
    images = [picture(24, 16), picture(24, 16).transpose(Image.Transpose.ROTATE_180)]
    own = processor.image_processor(images, return_tensors="pt")
    pixels = vislex.create_image_processor(encoder.spec)(images, return_tensors="pt")["pixel_values"]
    given = encoder.family.arguments(encoder.config.backbone_config, pixels, {})
    torch.testing.assert_close(given["hidden_states"], own["pixel_values"])
    assert torch.equal(given["grid_thw"], own["image_grid_thw"])
    tokens = encoder(pixels).tokens  # [2, 24, 16]
    blocks = tokens.unflatten(1, (2, 2, 3, 2)).transpose(2, 3).flatten(0, 4)
    merged = model.get_image_features(**own).pooler_output
    torch.testing.assert_close(model.model.visual.merger(blocks), torch.cat(merged))

    encoder.save_pretrained(tmp_path / "encoder")
    again = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    assert torch.equal(again(pixels).tokens, tokens)
    buffers = dict(again.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in encoder.named_buffers())
    with pytest.raises(SpecError, match=r"image_size \(12, 24\) is no multiple of 8"):
        vislex.create_encoder(f"hf:{tmp_path / 'host'}", image_size=(12, 24))
    assert vislex.create_encoder(f"hf:{tmp_path / 'host'}").spec.image_size == (128, 128)

    wrapped = vislex.swap_encoder(*tiny_hosts.build("llava"), encoder)  # and an encoder of other hosts
    assert wrapped.report.image_tokens == 24


@pytest.mark.parametrize("host", QWEN)
def test_weights_of_a_qwen_of_another_width_leave_the_merger(tiny_hosts: ModuleType, host: str) -> None:
    model, processor = tiny_hosts.build(host)
    other, _ = tiny_hosts.build(host)
    vision = other.config.vision_config
    vision.hidden_size, vision.out_hidden_size = (48, None) if host == "qwen2_vl" else (vision.hidden_size, 48)
    encoder = HFEncoder.from_backbone_config(vision, mean=HALF, std=HALF, image_size=16)
    merger = {name: value.clone() for name, value in model.model.visual.merger.state_dict().items()}
    result = vislex.swap_encoder(model, processor, encoder)
    assert result.report.kind == "own"
    assert [row["weights"] for row in result.report.parts] == ["the encoder's", "kept", "kept"]
    blocks = encoder.backbone.blocks.state_dict()
    assert all(torch.equal(value, blocks[name]) for name, value in model.model.visual.blocks.state_dict().items())
    assert all(torch.equal(value, merger[name]) for name, value in model.model.visual.merger.state_dict().items())


@pytest.mark.parametrize(("host", "encoder"), [("llava", "siglip"), ("qwen2_5_vl", "registers"), ("internvl", "clip")])
@torch.no_grad()
def test_a_host_from_a_folder_is_saved_under_names_that_open(
    tiny_hosts: ModuleType, host: str, encoder: str, tmp_path: Path
) -> None:
    model, processor = tiny_hosts.build(host)
    model.save_pretrained(tmp_path / "host")
    processor.save_pretrained(tmp_path / "host")
    result = vislex.swap_encoder(*load_host(tmp_path / "host"), tiny_hosts.ENCODERS[encoder]())
    inputs = prepare(result, picture())
    logits = result.model(**inputs).logits
    assert result.model.config.model_type == (host if host == "llava" else f"vislex_{host}")
    result.save_pretrained(tmp_path / "out")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(again(**inputs).logits, logits)
    assert again.config.model_type.removeprefix("vislex_") == host
    second = vislex.swap_encoder(again, AutoProcessor.from_pretrained(tmp_path / "out"), wide_or_clip(host, tiny_hosts))
    inputs = prepare(second, picture())
    assert image_tokens(second, inputs) == len(features(second, inputs))


def wide_or_clip(host: str, tiny_hosts: ModuleType) -> Any:
    return tiny_hosts.ENCODERS["clip"]() if host == "internvl" else wide()


@torch.no_grad()
def test_a_swapped_smolvlm_takes_videos(tiny_hosts: ModuleType) -> None:
    result = vislex.swap_encoder(*tiny_hosts.build("smolvlm"), tiny_hosts.ENCODERS["registers"]())
    video = np.random.default_rng(0).integers(0, 255, (4, 30, 44, 3), dtype=np.uint8)
    metadata = [{"fps": 1, "total_num_frames": 4, "duration": 4.0, "frames_indices": [0, 1, 2, 3]}]
    inputs = result.processor(
        videos=[[video]], text=["<video> what ?"], return_tensors="pt", video_metadata=metadata, do_sample_frames=False
    )
    assert inputs["pixel_values"].shape[-2:] == (42, 42)
    assert result.model(**inputs).logits.isfinite().all()  # transformers compares features and tokens
    assert image_tokens(result, dict(inputs)) == 9 * inputs["pixel_values"].shape[1]


@pytest.mark.parametrize("host", ["idefics3", "qwen2_5_vl", "qwen2_vl", "smolvlm"])
def test_the_tower_that_is_built_to_be_replaced_is_small(host: str) -> None:
    swapped: Any = host_family(host).swapped_class
    vision = swapped.stock.sub_configs_defaults["vision_config"].config_class(**swapped.smallest)
    with torch.device("meta"):
        tower = FAMILIES[vision.model_type].build(vision)
    assert sum(parameter.numel() for parameter in tower.parameters()) < 20_000


@pytest.mark.parametrize("host", ["internvl", "qwen2_vl", "smolvlm"])
def test_a_poisoned_tower_of_a_subclass_is_refused(tiny_hosts: ModuleType, host: str, tmp_path: Path) -> None:
    vislex.swap_encoder(*tiny_hosts.build(host), tiny_hosts.ENCODERS["siglip"]()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for place in (config["vision_config"], config["vision_config"]["encoder_config"]["backbone_config"]):
        place["auto_map"] = {"AutoModel": "evil.Model"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        del place["auto_map"]
        for load in (load_host, AutoModelForImageTextToText.from_pretrained):
            with pytest.raises(CheckpointError, match=r"auto_map.*no checkpoint may set"):
                load(tmp_path)
