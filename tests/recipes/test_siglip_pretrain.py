"""The recipe ``siglip_pretrain``: its loss is the paper's, and what it saves opens with stock transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

from vislex.config import load_config
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.recipes.siglip_pretrain import SiglipPretrainConfig, build_model, run, sigmoid_loss
from vislex.text import load_tokenizer
from vislex.training.callbacks import read_log

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "train_size=12", "val_size=6", "batch_size=4",
    "steps=4", "eval_every=4", "log_every=2", "warmup_steps=0", "text_length=12", "image_size=24", "render_workers=0",
    "vision={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}",
    "text={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}",
    "render_sizes=[24]", "data_seed=1",
]  # fmt: skip

EXPECTED = [8.5234, 6.4380]  # mean of steps 1-2 and 3-4


def test_the_loss_is_transformers_own_where_no_caption_repeats() -> None:
    torch.manual_seed(0)
    config = load_config(SiglipPretrainConfig, None, SMALL)
    model = build_model(config, load_tokenizer())
    ids = torch.randint(0, 1000, (4, 12))
    output = model(pixel_values=torch.randn(4, 3, 24, 24), input_ids=ids, return_loss=True)
    torch.testing.assert_close(sigmoid_loss(output.logits_per_text, torch.arange(4)), output.loss)
    assert model.logit_bias.item() == -10.0
    assert model.logit_scale.exp().item() == pytest.approx(10.0)


def test_a_caption_that_repeats_is_no_negative() -> None:
    logits = torch.tensor([[1.0, 9.0], [9.0, 1.0]])
    own = -torch.nn.functional.logsigmoid(torch.tensor(1.0))
    torch.testing.assert_close(sigmoid_loss(logits, torch.tensor([5, 5])), own)
    assert sigmoid_loss(logits, torch.tensor([5, 6])) > 5


def test_it_saves_a_stock_model_that_encodes(tmp_path: Path) -> None:
    folder = run(load_config(SiglipPretrainConfig, None, [*SMALL, f"output_dir={tmp_path / 'run'}"]))
    losses = [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]
    assert losses == pytest.approx(EXPECTED, abs=2e-2)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    model = SiglipModel.from_pretrained(folder)
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    texts = tokenizer(["a cat", "a dog on the left"], padding="max_length", return_tensors="pt")
    assert list(texts) == ["input_ids"]
    assert texts["input_ids"].shape == (2, 12)
    pixels = processor([Image.new("RGB", (50, 40))], return_tensors="pt")
    assert model(**pixels, **texts).logits_per_image.shape == (1, 2)
    encoder = create_encoder(f"hf:{folder}", pretrained=True)
    assert (encoder.spec.n_tokens, encoder.spec.dim, encoder.spec.interpolation) == (16, 32, "bicubic")
    card = (folder / "README.md").read_text()
    assert "CC BY-SA 4.0" in card
    assert "vislex train siglip_pretrain budget=smoke seed=0" in card
    figures = json.loads((folder / "run.json").read_text())["figures"]
    assert 0 <= figures["eval_text_to_image_R@1"] <= figures["eval_text_to_image_R@5"] <= 1


def test_a_training_goes_on_from_a_saved_model(tmp_path: Path) -> None:
    first = run(load_config(SiglipPretrainConfig, None, [*SMALL, f"output_dir={tmp_path / 'first'}"]))
    more = [*SMALL, f"start_from={first}", "lr=1e-12", "data_seed=2", "ema_decay=0", f"output_dir={tmp_path / 'more'}"]
    second = run(load_config(SiglipPretrainConfig, None, [*more, "text_length=30", "vision.num_hidden_layers=2"]))
    before, after = SiglipModel.from_pretrained(first), SiglipModel.from_pretrained(second)
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, weights in before.state_dict().items():
        assert torch.equal(weights, after.state_dict()[name]), name
    assert (first / "tokenizer.json").read_text() == (second / "tokenizer.json").read_text()
    assert "Pad captions to 12 tokens" in (second / "README.md").read_text()
    tuned = [*more, "tune=head", "lr=0.01", f"output_dir={tmp_path / 'head'}"]
    head = SiglipModel.from_pretrained(run(load_config(SiglipPretrainConfig, None, tuned))).state_dict()
    changed = {name for name, weights in before.state_dict().items() if not torch.equal(weights, head[name])}
    assert "vision_model.head.probe" in changed
    assert all(name.startswith(("vision_model.head.", "logit_")) for name in changed)
    with pytest.raises(ConfigError, match="give its folder as start_from"):
        run(load_config(SiglipPretrainConfig, None, [*SMALL, "tune=head", f"output_dir={tmp_path / 'wrong'}"]))
    with pytest.raises(ConfigError, match="image_size 48 was given"):
        run(load_config(SiglipPretrainConfig, None, [*more, "image_size=48", f"output_dir={tmp_path / 'wrong'}"]))


def test_sizes_that_do_not_fit_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="does not divide image_size"):
        build_model(load_config(SiglipPretrainConfig, None, ["patch_size=7"]), load_tokenizer())
    with pytest.raises(ConfigError, match=r"vision\.num_attention_heads"):
        build_model(load_config(SiglipPretrainConfig, None, ["vision.num_attention_heads=5"]), load_tokenizer())


def test_the_full_size_fits_into_the_weights_that_are_shipped() -> None:
    with torch.device("meta"):
        model = build_model(load_config(SiglipPretrainConfig, None, ["patch_size=6"]), _Vocabulary())
    assert 2 * sum(p.numel() for p in model.parameters()) < 8e6


class _Vocabulary:
    """As many word pieces as the default vocabulary's captions hold."""

    pad_token_id, cls_token_id, sep_token_id = 0, 2, 3

    def __len__(self) -> int:
        return 700
