"""Dialogues as token ids with a loss on answers only; batches that are padded, or packed without seeing each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vislex.adapters.chat import IMAGE_TOKEN
from vislex.adapters.instructions import Turn
from vislex.errors import ConfigError

__all__ = ["TurnBank", "encode_turns"]


def encode_turns(
    tokenizer: Any, turns: Sequence[Turn], template: str | None = None, *, answers_only: bool = True
) -> tuple[list[int], list[bool]]:
    """Ids of a dialogue, and which of them are answers.

    What the template writes between the prompt for an answer and the end of that answer is the answer, its last token
    included.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        turns: The dialogue; each ``<image>`` is one id.
        template: Chat template; the tokenizer's by default.
        answers_only: Whether only answers are learned; False marks all but the first token.

    Raises:
        ConfigError: If the template rewrites earlier turns once there is another.
    """
    spoken = [{"role": turn.role, "content": turn.content} for turn in turns]

    def render(count: int, prompt: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            spoken[:count], chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
        return text

    whole = render(len(spoken), False)
    spans = []
    for i, turn in enumerate(turns):
        if turn.role == "assistant":
            before, after = render(i, True), render(i + 1, False).rstrip()
            if not (whole.startswith(before) and whole.startswith(after)):
                raise ConfigError(
                    "this chat template writes earlier turns anew with each turn, so that its answers cannot be told "
                    "apart; pass another chat_template"
                )
            spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    if not answers_only:
        return encoded["input_ids"], [place > 0 for place in range(len(encoded["input_ids"]))]
    learned = [any(b < end and e > begin for begin, end in spans) for b, e in encoded["offset_mapping"]]
    return encoded["input_ids"], learned


class TurnBank:
    """Token ids of many dialogues, encoded once; image tokens are written out when a batch is made.

    Args:
        dialogues: Their turns.
        tokenizer: A fast tokenizer with ``<image>``.
        template: Chat template; the tokenizer's by default.
        max_length: Longest dialogue in tokens without those of images; the rest is cut.
        answers_only: See ``encode_turns``.

    Attributes:
        ids: For each dialogue its ids.
        learned: For each dialogue, which ids have a loss.
        n_images: int64[N], images of each dialogue.
    """

    def __init__(
        self,
        dialogues: Sequence[Sequence[Turn]],
        tokenizer: Any,
        *,
        template: str | None = None,
        max_length: int = 512,
        answers_only: bool = True,
    ) -> None:
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.pad_token_id = tokenizer.pad_token_id
        self.ids: list[np.ndarray] = []
        self.learned: list[np.ndarray] = []
        for turns in dialogues:
            ids, learned = encode_turns(tokenizer, turns, template, answers_only=answers_only)
            self.ids.append(np.array(ids[:max_length], dtype=np.int64))
            self.learned.append(np.array(learned[:max_length], dtype=bool))
        self.n_images = np.array([int((ids == self.image_token_id).sum()) for ids in self.ids], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self, n_tokens: int = 1) -> np.ndarray:
        """int64[N], tokens of each dialogue where an image has ``n_tokens``."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64) + self.n_images * (n_tokens - 1)

    def sequence(self, dialogue: int, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels int64[L] of a dialogue whose images have ``counts`` tokens."""
        ids, labels = self.ids[dialogue], np.where(self.learned[dialogue], self.ids[dialogue], -100)
        repeats = np.ones(len(ids), dtype=np.int64)
        is_image = ids == self.image_token_id
        repeats[is_image] = list(counts)
        labels[is_image] = -100
        return ids.repeat(repeats), labels.repeat(repeats)

    def batch(self, chosen: np.ndarray, counts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels`` int64[B, longest], padded on the right.

        Args:
            chosen: int64[B], dialogues.
            counts: For each of them, tokens of each of its images.
        """
        rows = [self.sequence(int(dialogue), own) for dialogue, own in zip(chosen, counts, strict=True)]
        longest = max(len(ids) for ids, _ in rows)
        input_ids = np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)
        labels, mask = np.full_like(input_ids, -100), np.zeros_like(input_ids)
        for row, (ids, own) in enumerate(rows):
            input_ids[row, : len(ids)], labels[row, : len(ids)], mask[row, : len(ids)] = ids, own, 1
        return _tensors(input_ids=input_ids, attention_mask=mask, labels=labels)

    def packed(self, chosen: np.ndarray, counts: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
        """``input_ids``, ``position_ids`` and ``labels`` int64[rows, longest]: several dialogues a row, in order.

        Positions begin anew with each dialogue, by which models keep them apart; there is no attention mask. What is
        left at the end of a row is a sequence of its own without a loss.

        Args:
            chosen: int64[B], dialogues.
            counts: For each of them, tokens of each of its images.
            length: Longest row.

        Raises:
            ConfigError: If a dialogue is longer.
        """
        sequences = [self.sequence(int(dialogue), own) for dialogue, own in zip(chosen, counts, strict=True)]
        rows: list[list[int]] = []
        room = 0
        for number, (ids, _) in enumerate(sequences):
            if len(ids) > length:
                raise ConfigError(f"a dialogue has {len(ids)} tokens and does not fit into pack_length={length}")
            if len(ids) > room:  # dialogues stay in order, as their images do
                rows.append([])
                room = length
            rows[-1].append(number)
            room -= len(ids)
        longest = max(sum(len(sequences[number][0]) for number in row) for row in rows)
        input_ids = np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)
        labels, positions = np.full_like(input_ids, -100), np.zeros_like(input_ids)
        for row, numbers in enumerate(rows):
            begin = 0
            for number in numbers:
                ids, own = sequences[number]
                end = begin + len(ids)
                input_ids[row, begin:end], labels[row, begin:end] = ids, own
                labels[row, begin] = -100  # the dialogue before does not predict this one
                positions[row, begin:end] = np.arange(len(ids))
                begin = end
            positions[row, begin:] = np.arange(longest - begin)
        return _tensors(input_ids=input_ids, position_ids=positions, labels=labels)


def _tensors(**arrays: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
