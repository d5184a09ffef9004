"""The recipe ``lm_pretrain`` at smoke size: its losses and tokenizer, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vislex
from vislex.adapters.llms import load_llm_tokenizer
from vislex.adapters.vlm import VisionLanguageModel
from vislex.config import load_config
from vislex.errors import ConfigError
from vislex.recipes.lm_pretrain import LmPretrainConfig, run, suite_dialogues
from vislex.training.callbacks import read_log

SMALL = ["budget=smoke", "progress=false", "precision=fp32", "device=cpu", "log_every=2", "lr=1e-2"]


def train(folder: Path, *overrides: str) -> Path:
    return run(load_config(LmPretrainConfig, None, [*SMALL, f"output_dir={folder}", *overrides]))


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]


def test_it_trains_a_language_model_that_opens_by_its_folder(tmp_path: Path) -> None:
    folder = train(tmp_path / "run")
    first, *_, last = losses(folder)
    assert last < first - 0.3
    record = json.loads((folder / "run.json").read_text())
    assert record["figures"]["eval_perplexity"] > 1
    assert record["figures"]["eval_answer_loss"] > 0
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights  # tied
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    tokenizer = load_llm_tokenizer(f"hf:{folder}")
    assert len(tokenizer) == weights["model.embed_tokens.weight"].shape[0]
    for token in ("<|user|>", "<|end|>", "<image>", "<loc1023>", "<seg127>"):
        assert tokenizer.convert_tokens_to_ids(token) != tokenizer.unk_token_id
    encoder = vislex.create_encoder("siglip-tiny", tiny=True)
    model = VisionLanguageModel.from_parts(encoder=encoder, llm=f"hf:{folder}")
    assert len(model.processor.tokenizer) == len(tokenizer)  # it has <image>: no row is added
    assert "vislex train lm_pretrain budget=smoke" in (folder / "README.md").read_text()


def test_its_text_and_vocabulary_are_what_they_are_told_to_be(tmp_path: Path) -> None:
    config = load_config(LmPretrainConfig, None, ["budget=smoke", "train_size=4"])
    dialogues = list(suite_dialogues(config, "train", 4))
    assert len(dialogues) == 12
    rows = vislex.data.load_suite("openmoji", "vqa", split="train", size=4, vocabulary="core").with_format(None)
    asked, answered = dialogues[8]
    assert asked.content.endswith(rows["question"][0])
    assert len(asked.content) > len(rows["question"][0]) + 20  # the scene is described before
    assert answered.content == rows["answer"][0]
    few = train(tmp_path / "few", "location_tokens=false", "steps=1", "eval_every=1", "num_kv_heads=4")
    many = train(tmp_path / "many", "steps=1", "eval_every=1")
    sizes = [len(load_llm_tokenizer(f"hf:{folder}")) for folder in (few, many)]
    assert sizes[1] - sizes[0] == 1024 + 128
    keys = [load_file(folder / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"] for folder in (few, many)]
    assert keys[0].shape[0] == 2 * keys[1].shape[0]
    with pytest.raises(ConfigError, match="does not fit into pack_length"):
        train(tmp_path / "short", "pack_length=16")
