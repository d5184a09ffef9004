"""Each test has its own cache; a tiny text model for LaDiC."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from vislex.text import load_tokenizer, prune_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A BERT of four layers of width 32 with the suite's word pieces."""
    from vislex.data import load_suite

    rows = load_suite("openmoji", "caption", split="train", size=32, vocabulary="core").with_format(None)["captions"]
    tokenizer = prune_tokenizer(load_tokenizer(), [".", *(text for own in rows for text in own)])[0]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), initializer_range=0.1, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path
