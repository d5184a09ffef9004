"""The recipe ``caption`` at smoke size: expected losses, what it leaves, resuming, modes of the encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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

EXPECTED = [4.3607, 4.1643]  # mean of steps 1-2 and 3-4
MASKED = [4.4817, 4.3487]  # steps 1 and 2


def train(folder: Path, *overrides: str) -> Path:
    return run(load_config(CaptionConfig, None, [*SMALL, f"output_dir={folder}", *overrides]))


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]


def test_it_trains_a_captioner_to_the_expected_losses_and_says_how(tmp_path: Path) -> None:
    folder = train(tmp_path / "run")
    assert losses(folder) == pytest.approx(EXPECTED, abs=2e-3)
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["encoder"] == "siglip-tiny"
    assert record["encoder"]["source"]["kind"] == "untrained"
    assert all(name.startswith("decoder.") for name in load_file(folder / "model.safetensors"))
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


def test_saving_in_bfloat16_rounds_what_was_trained(tmp_path: Path) -> None:
    full, half = (
        load_file(train(tmp_path / kind, "steps=2", "eval_every=2", f"save_dtype={kind}") / "model.safetensors")
        for kind in ("float32", "bfloat16")
    )
    assert full.keys() == half.keys()
    for name, value in half.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, full[name].bfloat16())


def test_lora_on_the_encoder_is_trained_and_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lora = ["parts.encoder.mode=lora", "parts.encoder.lr=1e-2", "parts.encoder.lora_rank=2", "decoder=prefix"]
    folder = train(tmp_path / "lora", *lora)
    before = Captioner.from_pretrained(train(tmp_path / "frozen", "decoder=prefix")).encoder.state_dict()
    after = Captioner.from_pretrained(folder).encoder.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert [name for name in changed if not name.endswith("weight")] == []


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


def test_a_teachers_captions_take_the_place_of_references(tmp_path: Path) -> None:
    teacher = train(tmp_path / "teacher", "steps=1", "eval_every=1")
    learn = ["steps=2", "eval_every=2", "log_every=1", f"distill_from={teacher}", "distill_options={max_new_tokens: 3}"]
    taught = losses(train(tmp_path / "taught", *learn))
    (cached,) = (tmp_path / "cache" / "captions").iterdir()
    texts = json.loads(cached.read_text())
    assert len(texts) == 12
    cached.write_text(json.dumps(["a tulip"] * 12))  # read, not written again
    assert losses(train(tmp_path / "again", *learn)) != taught
    mixed = losses(train(tmp_path / "mixed", *learn, "distill_share=0.5"))
    assert mixed not in (taught, losses(train(tmp_path / "plain", "steps=2", "eval_every=2", "log_every=1")))


def test_a_part_of_a_part_is_trained_in_another_way(tmp_path: Path) -> None:
    options = ["steps=2", "eval_every=2", "parts.others={decoder.text_decoder.bert.embeddings: {mode: frozen}}"]
    record = json.loads((train(tmp_path / "run", *options) / "run.json").read_text())
    parts = {row["part"]: row for row in record["parts"]}
    assert parts["decoder.text_decoder.bert.embeddings"]["trainable"] == 0
    assert 0 < parts["decoder"]["trainable"] == record["parameters"]["trainable"]


def test_validation_writes_captions_as_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'num_beam'; did you mean 'num_beams'"):
        train(tmp_path / "wrong", "validation_options={num_beam: 2}")
    train(tmp_path / "right", "steps=1", "eval_every=1", "validation_options={num_beams: 2}")
