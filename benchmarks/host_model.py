"""A host of transformers as ``bench captioning`` and ``bench vqa`` want a model: it captions and answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vislex.adapters.instructions import CAPTION_PROMPT
from vislex.adapters.vlm_ask import Answer
from vislex.benchmarks.caption_models import STOCK_LENGTH
from vislex.benchmarks.lmms_responders import ChatResponder, Question
from vislex.captioner import Caption
from vislex.text import postprocess_caption

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["HostModel"]


class HostModel:
    """Asks a host for captions, in the words it is trained with, and for answers.

    Args:
        responder: The opened host.
    """

    any_order = False

    def __init__(self, responder: ChatResponder) -> None:
        self.responder = responder
        self.info = responder.info

    @property
    def device(self) -> torch.device:
        return next(self.responder.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.responder.model.parameters()).dtype

    def caption(
        self,
        images: Sequence[Image],
        *,
        batch_size: int,
        indices: Sequence[int] | None = None,
        prompt: str | None = None,
        **generation: Any,
    ) -> list[Caption]:
        """Captions; see ``vislex.benchmarks.caption_models.CaptionModel``.

        Args:
            images: The images.
            batch_size: Images a batch.
            indices: Their numbers, from which what is drawn for each follows.
            prompt: What asks for a caption; None takes that of the recipes.
            **generation: Options of ``generate``.
        """
        generation["max_new_tokens"] = generation.get("max_new_tokens") or STOCK_LENGTH
        prompts = [prompt or CAPTION_PROMPT] * len(images)
        beams = int(generation.get("num_beams") or 1)
        answers = self.ask(images, prompts, batch_size=batch_size, indices=indices, **generation)
        return [Caption(postprocess_caption(own.text), beams * own.new_tokens, own.seconds) for own in answers]

    def ask(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        *,
        batch_size: int = 16,
        indices: Sequence[int] | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """An answer to each prompt on its image.

        Args:
            images: One a prompt.
            prompts: Questions.
            batch_size: Questions a batch.
            indices: Their numbers, from which what is drawn for each follows.
            **generation: Options of ``generate``.
        """
        numbers = range(len(prompts)) if indices is None else indices
        questions = [
            Question(_turn(image, prompt), number, generation)
            for image, prompt, number in zip(images, prompts, numbers, strict=True)
        ]
        answers: list[Answer] = []
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            begun = time.perf_counter()
            replies = self.responder.respond(batch)
            seconds = (time.perf_counter() - begun) / len(batch)
            answers += [Answer(own.text, own.new_tokens or 0, seconds) for own in replies]
        return answers


def _turn(image: Any, prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
