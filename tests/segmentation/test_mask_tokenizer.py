"""The mask tokenizer as a model: shapes, nearest codes, gradients, saving, and the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

import vislex
import vislex.auto
from vislex.errors import CheckpointError, ConfigError, VislexError
from vislex.metrics.masks import score_masks
from vislex.segmentation.loc_seg import LocSegCodec
from vislex.segmentation.mask_tokenizer import SHIPPED, MaskTokenizer, MaskTokenizerConfig, load_mask_tokenizer
from vislex.shipped import shipped


def masks(count: int = 3) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return torch.stack([((y - 30) ** 2 + (x - 20 - 8 * i) ** 2 < 300).float() for i in range(count)])


def test_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = MaskTokenizer(MaskTokenizerConfig())
    counted = sum(value.numel() for value in model.state_dict().values())
    assert counted == 861_936 + 1_123_457 + 128 * 512
    assert tuple(model.encoder[10].weight.shape) == (512, 128, 1, 1)
    assert tuple(model.decoder[12].weight.shape) == (1, 16, 1, 1)


def test_codes_are_the_nearest_and_the_decoder_reads_them(tiny_tokenizer: MaskTokenizer) -> None:
    codes = tiny_tokenizer.encode(masks().numpy())
    assert (codes.shape, codes.dtype) == ((3, 16), np.int64)
    with torch.no_grad():
        features = tiny_tokenizer.features(masks() * 2 - 1)
        distances = torch.cdist(features, tiny_tokenizer.codebook.expand(3, -1, -1))
        output = tiny_tokenizer(masks() * 2 - 1)
    assert np.array_equal(codes, distances.argmin(-1).numpy())
    assert np.array_equal(codes, output.codes.numpy())
    decoded = tiny_tokenizer.decode(codes)
    assert decoded.shape == (3, 64, 64)
    torch.testing.assert_close(torch.from_numpy(decoded), output.reconstruction)


def test_the_loss_goes_straight_through(tiny_tokenizer: MaskTokenizer) -> None:
    x = masks() * 2 - 1
    output = tiny_tokenizer(x)
    features = tiny_tokenizer.features(x)
    chosen = tiny_tokenizer.codebook[output.codes]
    expected = ((output.reconstruction - x) ** 2).mean() + 0.25 * ((features - chosen) ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    plain = tiny_tokenizer(x, quantize=False)
    assert plain.codes is None
    torch.testing.assert_close(plain.loss, ((plain.reconstruction - x) ** 2).mean())
    output.loss.backward()
    assert tiny_tokenizer.encoder[0].weight.grad.abs().sum() > 0  # through the quantisation
    tiny_tokenizer.zero_grad()


def test_it_is_saved_and_opened_by_value(tiny_tokenizer: MaskTokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    for opened in (MaskTokenizer.load(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(opened, MaskTokenizer)
        for name, value in tiny_tokenizer.state_dict().items():
            assert torch.equal(opened.state_dict()[name], value), name
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MaskTokenizerConfig)
    assert load_mask_tokenizer(tmp_path) is load_mask_tokenizer(tmp_path)
    assert load_mask_tokenizer(tiny_tokenizer) is tiny_tokenizer
    assert MaskTokenizer.load(tmp_path).digest() == tiny_tokenizer.digest()


def test_what_is_no_mask_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        LocSegCodec(tmp_path).encode([np.ones((4, 4), dtype=bool)])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="holds a 'bert', no mask tokenizer"):
        MaskTokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vislex_mask_tokenizer", "auto_map": {}}))
    with pytest.raises(VislexError, match="auto_map"):
        MaskTokenizer.load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be halved 4 times; give a multiple of 16"):
        MaskTokenizer(MaskTokenizerConfig(image_size=40))


def test_the_shipped_one_keeps_its_figures() -> None:
    folder = shipped(SHIPPED)
    assert (folder / "model.safetensors").stat().st_size <= 4.2e6
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    figures = json.loads((folder / "run.json").read_text())["figures"]
    assert figures["mIoU"] >= 0.8
    assert figures["codes"] > 100
    rows = vislex.data.load_suite("openmoji", "segmentation", split="val", size=40, image_size=256, vocabulary="large")
    found = [row["mask"] for row in rows]
    codec = LocSegCodec()
    decoded = [codec.decode(codec.encode([mask]), mask.shape) for mask in found]
    score = score_masks([item.mask for item in decoded], found)["mIoU"]
    assert score == pytest.approx(figures["mIoU"], abs=0.03)  # of 40 of its 200 masks
    assert score > score_masks([item.filled_boxes for item in decoded], found)["mIoU"] + 0.2
