"""Questions to a vision-language model: images and prompts in, answers as text out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vislex.adapters.vlm_read import encode_once
from vislex.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["Answer", "Written", "ask", "pair_up", "write"]


@dataclass(frozen=True)
class Answer:
    """One answer and what it took.

    Attributes:
        text: The answer.
        new_tokens: Tokens written, its end included.
        seconds: Wall time of the batch, divided by its size.
    """

    text: str
    new_tokens: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Written:
    """A batch of answers as the model has written them.

    Attributes:
        inputs: What it was given.
        ids: int64[B, L], what it wrote behind its prompts.
        answers: The same as text.
    """

    inputs: dict[str, Any]
    ids: Tensor
    answers: list[Answer]


def ask(
    model: VisionLanguageModel,
    images: Any,
    prompts: str | Sequence[str],
    *,
    system: str | None = None,
    n_tokens: int | None = None,
    batch_size: int = 16,
    **options: Any,
) -> list[Answer]:
    """Answers questions on images.

    Args:
        model: The model; its mode is restored.
        images: One image for all questions, a list with one for each, or a list of lists; None asks without. An image
            is a path, a PIL image, or uint8[H, W, 3].
        prompts: One question for all images, or one for each.
        system: What stands before the question in the dialogue.
        n_tokens: Tokens an image, for connectors with a budget.
        batch_size: Questions a batch.
        **options: Fields of ``GenerationConfig``: ``max_new_tokens``, ``num_beams``, ...

    Raises:
        CheckpointError: If the model has no processor.
        ConfigError: If there is not one question for each image.
        ImageError: If a file is missing, damaged or no image.
    """
    pairs = pair_up(images, prompts)
    batches = write(model, pairs, system=system, n_tokens=n_tokens, batch_size=batch_size, **options)
    return [answer for batch in batches for answer in batch.answers]


@torch.no_grad()
def write(
    model: VisionLanguageModel,
    pairs: Sequence[tuple[list[Any], str]],
    *,
    system: str | None = None,
    n_tokens: int | None = None,
    batch_size: int = 16,
    **options: Any,
) -> Iterator[Written]:
    """Writes answers a batch at a time, in eval mode.

    Args:
        model: The model; its mode is restored at the end.
        pairs: Images and question of each prompt.
        system: See ``ask``, as for the others.
        n_tokens: See ``ask``.
        batch_size: See ``ask``.
        **options: See ``ask``.

    Raises:
        CheckpointError: If the model has no processor.
        ImageError: If a file is missing, damaged or no image.
    """
    processor = model.processor
    if processor is None:
        raise CheckpointError("this model has no processor; set model.processor or use from_parts")
    training = model.training
    model.eval()
    budget = {} if n_tokens is None else {"n_tokens": n_tokens}
    if "max_length" not in options:
        options.setdefault("max_new_tokens", 64)
    try:
        for begin in range(0, len(pairs), batch_size):
            batch = pairs[begin : begin + batch_size]
            start = time.perf_counter()
            texts = [processor.prompt(question, len(own), system=system) for own, question in batch]
            inputs = processor([own for own, _ in batch], texts, add_special_tokens=False, **budget)
            inputs = encode_once(model, inputs.to(model.device))
            ids = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
            seconds = (time.perf_counter() - start) / len(batch)
            counts = _lengths(ids, model.generation_config.eos_token_id)
            texts = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            answers = [Answer(text.strip(), count, seconds) for text, count in zip(texts, counts, strict=True)]
            yield Written(inputs, ids, answers)
    finally:
        model.train(training)


def _lengths(ids: Tensor, ends: int | list[int]) -> list[int]:
    """Tokens of each answer int64[B, L] up to its end."""
    ended = torch.isin(ids, torch.tensor(ends, device=ids.device))
    ended[:, -1] = True
    lengths: list[int] = (ended.long().argmax(1) + 1).tolist()
    return lengths


def pair_up(images: Any, prompts: str | Sequence[str]) -> list[tuple[list[Any], str]]:
    """The images and the question of each prompt.

    Args:
        images: See ``ask``.
        prompts: See ``ask``.

    Raises:
        ConfigError: If there is not one question for each image.
    """
    single = not isinstance(images, list | tuple)
    questions = None if isinstance(prompts, str) else list(prompts)
    if questions is None:
        questions = [str(prompts)] * (1 if single else len(images))
    own: list[Any] = [images] * len(questions) if single else list(images)
    if len(own) != len(questions):
        raise ConfigError(
            f"there are {len(own)} images and {len(questions)} questions; give one of either, or as many of both"
        )
    return [
        ([] if image is None else list(image) if isinstance(image, list | tuple) else [image], question)
        for image, question in zip(own, questions, strict=True)
    ]
