"""A tiny Llama with the suite's words and a chat template, as ``lm_pretrain`` leaves one."""

from __future__ import annotations

from pathlib import Path

import torch

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.text import load_tokenizer, prune_tokenizer

__all__ = ["save"]


def save(folder: Path) -> Path:
    """Writes it, with random weights that are large enough for images to matter."""
    texts: list[str] = []
    for task, names in (("caption", ("captions",)), ("vqa", ("question", "answer"))):
        rows = vislex.data.load_suite("openmoji", task, split="train", size=40).with_format(None)
        for name in names:
            texts += [text for own in rows[name] for text in (own if isinstance(own, list) else [own])]
    texts += ["segment", *map(str, range(1024)), ": ; /"]
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), texts)[0])
    torch.manual_seed(0)
    model = vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
