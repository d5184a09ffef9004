"""Dialogues as a host's training batches: its own processor writes the prompt, answers are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vislex.adapters.chat import IMAGE_TOKEN
from vislex.adapters.hosts import HostFamily
from vislex.adapters.instructions import Example, Turn

__all__ = ["host_batch", "host_inputs", "host_prompts"]


def host_prompts(processor: Any, examples: Sequence[Example]) -> list[tuple[str, str]]:
    """The prompt before the last answer of each dialogue, and this answer with what ends it.

    A host with a chat template writes its turns by it; others (PaliGemma) get the bare texts.
    """
    return [_spoken(processor, list(example.turns)) for example in examples]


def host_batch(
    family: HostFamily, processor: Any, examples: Sequence[Example], images: Sequence[list[Any]], *, max_length: int
) -> dict[str, Tensor]:
    """Inputs of a host with ``labels`` for the last answer of each dialogue.

    The processor sees the prompt as it will when the host is asked, so that its image tokens and what else it gives are
    the same then.

    Args:
        family: The host's.
        processor: The host's.
        examples: Dialogues.
        images: The images of each, in order.
        max_length: Longest answer in tokens; the rest is cut.
    """
    prompts, answers = zip(*host_prompts(processor, examples), strict=True)
    inputs = dict(host_inputs(processor, list(prompts), images))
    inputs.pop("labels", None)  # PaliGemma's, of prompts alone
    masks = inputs.pop("attention_mask").bool()
    tokenizer = processor.tokenizer
    learned = [
        torch.tensor(tokenizer(answer, add_special_tokens=False)["input_ids"][:max_length], dtype=torch.long)
        for answer in answers
    ]
    prompt_ids = [ids[mask] for ids, mask in zip(inputs["input_ids"], masks, strict=True)]
    inputs["input_ids"] = _joined(prompt_ids, learned, tokenizer.pad_token_id)
    inputs["labels"] = _joined([torch.full_like(ids, -100) for ids in prompt_ids], learned, -100)
    seen = [torch.ones_like(ids) for ids in prompt_ids], [torch.ones_like(ids) for ids in learned]
    inputs["attention_mask"] = _joined(*seen, padding=0)
    for name, value in (("token_type_ids", family.answer_type), ("mm_token_type_ids", 0)):
        if name in inputs:
            types = [own[mask] for own, mask in zip(inputs[name], masks, strict=True)]
            inputs[name] = _joined(types, [torch.full_like(ids, value) for ids in learned], value)
    return inputs


def host_inputs(processor: Any, prompts: list[str], images: Sequence[list[Any]]) -> Any:
    """The processor's output for prompts with their images, padded on the left."""
    bos = {} if getattr(processor, "chat_template", None) is None else {"add_special_tokens": False}
    return processor(
        images=list(images) if any(images) else None,
        text=prompts,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **bos,
    )


def _spoken(processor: Any, turns: list[Turn]) -> tuple[str, str]:
    answer = turns[-1].content
    end = processor.tokenizer.eos_token or ""
    if getattr(processor, "chat_template", None) is None:
        prompt = "\n".join(turn.content for turn in turns[:-1])
        return prompt.replace(IMAGE_TOKEN, processor.image_token), answer + end
    spoken = [{"role": turn.role, "content": _parts(turn.content)} for turn in turns]
    before: str = processor.apply_chat_template(spoken[:-1], add_generation_prompt=True, tokenize=False)
    whole: str = processor.apply_chat_template(spoken, tokenize=False)
    return before, whole[len(before) :].rstrip() if whole.startswith(before) else answer + end


def _parts(content: str) -> list[dict[str, str]]:
    """A turn's text as the parts that chat templates of transformers take."""
    parts: list[dict[str, str]] = []
    for number, text in enumerate(content.split(IMAGE_TOKEN)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _joined(prompts: Sequence[Tensor], answers: Sequence[Tensor], padding: int) -> Tensor:
    rows = [torch.cat([prompt, answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    return pad_sequence(rows, batch_first=True, padding_value=padding)
