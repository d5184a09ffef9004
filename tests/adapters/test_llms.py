"""Every language backbone of the catalog, as the real class at its tiny size, and its full size on the meta device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import vislex
from vislex.adapters.chat import (
    CHAT_TEMPLATE,
    IMAGE_TOKEN,
    add_image_token,
    chat_tokenizer,
    location_tokens,
    multimodal_template,
)
from vislex.adapters.llms import create_llm, grow_vocabulary, llm_source, load_llm_tokenizer, rebuild_llm
from vislex.errors import CheckpointError, ConfigError, UnknownNameError
from vislex.modules.digest import weights_digest
from vislex.registry import registry
from vislex.text import load_tokenizer, prune_tokenizer

NAMES = [entry.name for entry in registry("llms") if not entry.is_family]
BILLIONS = {
    "gemma2-2b": 2.61, "gemma3-1b": 1.0, "llama3.2-1b": 1.24, "phi-2": 2.78, "phi3-mini": 3.82, "qwen2.5-0.5b": 0.494,
    "qwen3-0.6b": 0.596, "smollm2-135m": 0.1345, "smollm2-360m": 0.362, "smollm3-3b": 3.08,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name in BILLIONS])
def test_full_size_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = create_llm(name)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(BILLIONS[name], rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_room_for_a_token_touches_no_other_row(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_llm(name, tiny=True)
    ids = torch.randint(3, 90, (2, 7))
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    with torch.no_grad():
        before = model(input_ids=ids).logits
    known = before.shape[-1]
    assert grow_vocabulary(model, known) == 0
    assert grow_vocabulary(model, known + 2) == 2
    with torch.no_grad():
        after = model(input_ids=ids).logits
        assert model(input_ids=torch.tensor([[known + 1]])).logits.isfinite().all()
    assert torch.equal(after[..., :known], before)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    model.save_pretrained(tmp_path)
    loaded = create_llm(f"hf:{tmp_path}", pretrained=True)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, after)
    assert create_llm(f"hf:{tmp_path}").config.vocab_size == known + 2


def test_a_source_is_recorded_and_verified(tmp_path: Path) -> None:
    model = create_llm("qwen3-0.6b", tiny=True)
    assert llm_source(model) is None
    model.save_pretrained(tmp_path)
    loaded = create_llm(f"hf:{tmp_path}", pretrained=True)
    grow_vocabulary(loaded, 120)
    source = llm_source(loaded)
    assert source is not None
    assert (source["kind"], source["location"]) == ("local", str(tmp_path))
    source["sha256"] = weights_digest(loaded)
    again = rebuild_llm(source, 120)
    assert torch.equal(again.get_input_embeddings().weight, loaded.get_input_embeddings().weight)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="have changed since"):
        rebuild_llm(source, 120)


def test_what_cannot_be_built_is_told(tmp_path: Path) -> None:
    assert "qwen3-0.6b" in vislex.list_llms("qwen*")
    with pytest.raises(UnknownNameError, match=r"'qwen3-0.5b'; did you mean 'qwen3-0.6b'"):
        create_llm("qwen3-0.5b")
    with pytest.raises(ConfigError, match="'hiden_size' is no field"):
        create_llm("qwen3-0.6b", tiny=True, hiden_size=3)
    with pytest.raises(ConfigError, match="tiny variant has no pretrained weights"):
        create_llm("qwen3-0.6b", tiny=True, pretrained=True)
    with pytest.raises(CheckpointError, match="cannot read the config of the language model"):
        create_llm(f"hf:{tmp_path}", pretrained=True)
    create_llm("qwen3-0.6b", tiny=True).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load_llm_tokenizer(f"hf:{tmp_path}")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        create_llm(f"hf:{tmp_path}", pretrained=True)
    assert create_llm("qwen3-0.6b", tiny=True, attention_dropout=0.5).config.attention_dropout == 0.5


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return chat_tokenizer(prune_tokenizer(load_tokenizer(), ["what is red? a kite"])[0], location_tokens())


def test_a_dialogue_is_text_and_back(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "What is red?"}, {"role": "assistant", "content": "a kite <loc0007><seg127>"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|user|>What is red?<|end|><|assistant|>a kite <loc0007><seg127><|end|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>")
    answer = tokenizer.decode(ids, skip_special_tokens=True)
    assert answer.replace(" ", "").endswith("akite<loc0007><seg127>")
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded(text)["input_ids"] == ids
    assert loaded.eos_token == "<|end|>"
    marked = loaded.apply_chat_template(turns, return_assistant_tokens_mask=True, return_dict=True)
    supervised = [i for i, own in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if own]
    assert supervised == ids[-5:]


def test_any_template_takes_images() -> None:
    from jinja2 import Environment

    theirs = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    parts = [{"type": "image"}, {"type": "text", "text": "left?"}, {"type": "video"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    shown = Environment().from_string(multimodal_template(theirs)).render(messages=turns)
    assert shown.strip() == "[user] <image>left?<video>\n[assistant] yes"
    assert multimodal_template(None).endswith(CHAT_TEMPLATE)


def test_an_image_token_is_added_once(tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    assert add_image_token(tokenizer) == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert len(tokenizer) == size
    plain = prune_tokenizer(load_tokenizer(), ["a kite"])[0]
    assert add_image_token(plain) == len(plain) - 1
