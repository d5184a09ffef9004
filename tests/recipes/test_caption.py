"""The recipe ``caption`` at smoke size: expected losses, what it leaves, resuming, modes of the encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vislex.captioner import Captioner
from vislex.config import load_config
from vislex.errors import ConfigError
from vislex.recipes.caption import CaptionConfig, run
from vislex.training.callbacks import read_log

SMALL = [
    "budget=smoke", "encoder=siglip-tiny", "tiny=true", "pretrained=false", "progress=false", "precision=fp32",
    "device=cpu", "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2, dropout: 0}", "log_every=2",
    "train_size=12", "val_size=4", "batch_size=4", "steps=4", "eval_every=4", "lr=1e-2", "warmup_steps=0",
]  # fmt: skip

EXPECTED = [4.3454, 4.2099]  # mean of steps 1-2 and 3-4
MASKED = [4.7249, 4.5107]  # steps 1 and 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))


def train(folder: Path, *overrides: str) -> Path:
    return run(load_config(CaptionConfig, None, [*SMALL, f"output_dir={folder}", *overrides]))


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]


def test_it_trains_a_captioner_to_the_expected_losses_and_says_how(tmp_path: Path) -> None:
    folder = train(tmp_path / "run")
    assert losses(folder) == pytest.approx(EXPECTED, abs=2e-3)
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["encoder"] == "siglip-tiny"
    assert record["parameters"]["trainable"] == record["parameters"]["decoder"]
    assert 0 < record["parameters"]["decoder_budget"] < record["parameters"]["decoder"]
    assert record["figures"]["eval_loss"] == read_log(folder / "training.jsonl")[-2]["eval_loss"]
    assert record["suite"]["suite"] == "openmoji-v1"
    captioner = Captioner.from_pretrained(folder)
    assert len(captioner.processor.tokenizer) < 500
    from vislex.data import load_suite

    rows = load_suite("openmoji", "caption", split="val", size=2)
    assert len(captioner.caption(rows[:]["image"], max_new_tokens=3)) == 2
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    card = (folder / "README.md").read_text()
    assert "vislex train caption budget=smoke seed=0 steps=4" in card


def test_cached_tokens_train_as_pixels_do(tmp_path: Path) -> None:
    cached = train(tmp_path / "cached", "steps=2", "eval_every=2", "log_every=1")
    live = train(tmp_path / "live", "steps=2", "eval_every=2", "log_every=1", "cache_features=false")
    assert losses(cached) == pytest.approx(losses(live), abs=5e-3)  # the cache is bf16


def test_lora_on_the_encoder_is_trained_and_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lora = ["parts.encoder.mode=lora", "parts.encoder.lr=1e-2", "parts.encoder.lora_rank=2", "decoder=prefix"]
    folder = train(tmp_path / "lora", *lora)
    before = Captioner.from_pretrained(train(tmp_path / "frozen", "decoder=prefix")).encoder.state_dict()
    after = Captioner.from_pretrained(folder).encoder.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("weight") for name in changed)


def test_a_masked_decoder_trains(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "decoder=masked", "steps=2", "eval_every=2", "log_every=1")
    assert losses(folder) == pytest.approx(MASKED, abs=2e-3)
    assert Captioner.from_pretrained(folder).decoder.config.model_type == "vislex_masked"


def test_fill_in_middle_changes_the_training_and_is_remembered(tmp_path: Path) -> None:
    short = ["steps=2", "eval_every=2", "log_every=1"]
    folder = train(tmp_path / "run", "fill_in_middle=1.0", *short)
    assert losses(folder) != pytest.approx(losses(train(tmp_path / "plain", *short)), abs=1e-3)
    captioner = Captioner.from_pretrained(folder)
    assert captioner.decoder.config.blank_token_id == captioner.processor.tokenizer.mask_token_id
    with pytest.raises(ConfigError, match="'masked' is none"):
        train(tmp_path / "masked", "decoder=masked", "fill_in_middle=0.5")


def test_another_configuration_does_not_resume_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, "save_every=2", "steps=2", "eval_every=2")
    with pytest.raises(ConfigError, match=r"other values of batch_size"):
        train(folder, "save_every=2", "steps=2", "eval_every=2", "batch_size=2")
