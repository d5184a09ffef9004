"""Each test has its own cache; a tiny text model for LaDiC; a tiny host with a swapped encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipImageProcessor,
)

from vislex.adapters.chat import IMAGE_TOKEN, add_image_token, chat_tokenizer, multimodal_template
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


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A LLaVA of width 32 with the suite's words after a swap, and as it was before."""
    import vislex

    folder = tmp_path_factory.mktemp("hosts")
    texts: list[str] = []
    for task, names in (("caption", ("captions",)), ("vqa", ("question", "answer"))):
        rows = vislex.data.load_suite("openmoji", task, split="train", size=40).with_format(None)
        texts += [text for name in names for own in rows[name] for text in ([own] if isinstance(own, str) else own)]
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), texts)[0])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    image_token_id = add_image_token(tokenizer)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=24, patch_size=12),
        text_config=LlamaConfig(**sizes, vocab_size=len(tokenizer), initializer_range=0.1),
        image_token_index=image_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.suppress_tokens = [image_token_id]
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": 24, "width": 24}),
        tokenizer,
        patch_size=12,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=multimodal_template(tokenizer.chat_template),
    )
    model.save_pretrained(folder / "host")
    processor.save_pretrained(folder / "host")
    encoder = vislex.create_encoder("dinov2-s14-registers", tiny=True, seed=0)
    vislex.swap_encoder(model, processor, encoder).save_pretrained(folder / "swapped")
    return folder / "swapped", folder / "host"
