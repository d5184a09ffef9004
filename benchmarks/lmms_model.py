"""``--model vislex`` of lmms-eval: captioners, vision-language models, and hosts whose encoder was swapped."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from vislex.adapters.video import sample_frames
from vislex.benchmarks.lmms_responders import Question, Reply, open_responder
from vislex.data.images import load_image
from vislex.errors import ConfigError, DataError

__all__ = ["OPTIONS", "VislexLMM"]

OPTIONS = ("codec", "n_tokens", "num_frames", "system")  # beside those that every verb has


class VislexLMM(lmms):
    """A model of vislex as lmms-eval knows models.

    Args:
        pretrained: A folder, a shipped model's name, or ``hf:ORG/NAME``; see ``open_responder``.
        batch_size: Questions a batch.
        device: "auto", "cpu", "cuda", ...; with several processes, each takes the GPU of its local rank.
        dtype: "auto", "float32", "bfloat16" or "float16".
        seed: Of what is drawn; each decoder's own if None.
        codec: How masks are written; as the model was trained by default.
        n_tokens: Tokens an image, for connectors with a budget.
        num_frames: Frames of a video; they are images to the model.
        system: What stands before all turns.
        **unknown: None is known.

    Attributes:
        responder: The model.

    Raises:
        CheckpointError: If there is no such model.
        ConfigError: For an unknown option.
    """

    is_simple = False
    keep = False  # whether the model stays after an evaluation

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str = "auto",
        dtype: str = "float32",
        seed: int | None = None,
        codec: str | None = None,
        n_tokens: int | None = None,
        num_frames: int = 8,
        system: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ConfigError(
                f"--model vislex has no option '{next(iter(unknown))}'; known are pretrained, batch_size, device, "
                f"dtype, seed, {', '.join(OPTIONS)}"
            )
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ConfigError(f"batch_size is '{batch_size}'; give a positive number")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        options: dict[str, Any] = {"seed": seed, "codec": codec, "n_tokens": n_tokens}
        self.responder = open_responder(pretrained, device=device, dtype=dtype, **options)
        self.batch_size, self.num_frames, self.system = int(batch_size), num_frames, system
        self.device = next(self.responder.model.parameters()).device

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        """Answers in the order of the requests, each with its number of tokens where they are counted."""
        answers: list[Any] = []
        with tqdm(total=len(requests), desc="answering", disable=self.rank != 0) as bar:
            for chunk in _chunks(requests, self.batch_size):
                answers += [_result(reply) for reply in self._answer([self._question(own) for own in chunk])]
                bar.update(len(chunk))
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers of all rounds of each request; a task makes the turns of a round from the answers before it."""
        rounds: list[list[str]] = [[] for _ in requests]
        states: list[tuple[int, Any]] = [(number, None) for number in range(len(requests))]
        while states:
            questions, going = [], []
            for number, info in states:
                _, to_messages, options, place, task, split = requests[number].args
                document = self.task_dict[task][split][place]
                messages, ended, said, info = to_messages(
                    document,
                    round_idx=len(rounds[number]),
                    previous_output=list(rounds[number]),
                    previous_round_info=info,
                )
                if ended:
                    rounds[number] = list(said)
                else:
                    questions.append(Question(self._turns(messages), place, dict(options)))
                    going.append((number, info))
            for begin in range(0, len(going), self.batch_size):
                end = begin + self.batch_size
                for (number, _), reply in zip(going[begin:end], self._answer(questions[begin:end]), strict=True):
                    rounds[number].append(reply.text)
            states = going
        return rounds

    def clean(self) -> None:
        """Lets the model go: lmms-eval may start a judge on the same device."""
        if not self.keep:
            del self.responder
            super().clean()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused: lmms-eval asks chat models for text only."""
        raise ConfigError("--model vislex generates text; this task scores given answers: choose a generating variant")

    def _question(self, request: Instance) -> Question:
        _, to_messages, options, place, task, split = request.args
        messages = to_messages(self.task_dict[task][split][place])
        is_masks = (request.metadata or {}).get("answer") == "masks"
        return Question(self._turns(messages), int(place), dict(options or {}), masks=is_masks)

    def _turns(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """lmms-eval's messages with images opened and videos as frames."""
        turns = [{"role": own["role"], "content": list(self._parts(own["content"]))} for own in messages]
        if self.system is None:
            return turns
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, *turns]

    def _parts(self, content: str | Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if isinstance(content, str):
            yield {"type": "text", "text": content}
            return
        for part in content:
            if part["type"] == "text":
                yield {"type": "text", "text": part["text"]}
            elif part["type"] == "image":
                yield {"type": "image", "image": _opened(part["url"])}
            elif part["type"] == "video":
                for frame in sample_frames(part["url"], self.num_frames):
                    yield {"type": "image", "image": frame}
            else:
                raise DataError(f"this task has {part['type']}, which no model of vislex takes")

    def _answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Answers in order; questions that cannot stand in one batch are asked apart."""
        groups: dict[Any, list[int]] = {}
        for number, own in enumerate(questions):
            key = (json.dumps(own.options, sort_keys=True, default=str), len(own.images), own.masks)
            groups.setdefault(key, []).append(number)
        replies: dict[int, Reply] = {}
        for numbers in groups.values():
            replies |= zip(numbers, self.responder.respond([questions[i] for i in numbers]), strict=True)
        return [replies[number] for number in range(len(questions))]


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    queue = iter(items)
    while chunk := list(itertools.islice(queue, size)):
        yield chunk


def _opened(image: Any) -> Any:
    """A PIL image of mode RGB from one, or from a path."""
    return load_image(image) if isinstance(image, str) else image if image.mode == "RGB" else image.convert("RGB")


def _result(reply: Reply) -> Any:
    if reply.new_tokens is None:
        return reply.text
    return GenerationResult(reply.text, TokenCounts(output_tokens=reply.new_tokens))
