"""Soft tokens: vectors that stand where words stand in the input of a frozen text encoder.

A text encoder is called as its stock pipeline calls it - same special tokens, padding, mask, positions and pooling -
only that some places hold given vectors instead of rows of the embedding table. Special tokens come from the
tokenizer: configs of CLIP state legacy ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vislex.errors import ConfigError, SpecError

__all__ = [
    "INJECTIONS",
    "ORDERS",
    "ClipReader",
    "EmbedsReader",
    "Injection",
    "Order",
    "TextInputs",
    "TextReader",
    "write_vectors",
]

Order = Literal["visual_first", "text_first"]
ORDERS = ("visual_first", "text_first")
Injection = Literal["input", "output"]
INJECTIONS = ("input", "output")


@dataclass(frozen=True)
class TextInputs:
    """What a text encoder reads.

    Attributes:
        input_ids: int64[B, L]; a placeholder where a soft token stands.
        attention_mask: int64[B, L], 1 on all that is not padding.
        longest: Tokens of the longest row.
        places: bool[B, L], True where a soft token stands; None if there is none.
        vectors: float[S, D], the S soft tokens of all rows, row after row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    longest: int
    places: Tensor | None = None
    vectors: Tensor | None = None

    def trimmed(self) -> TextInputs:
        """Without the columns at the end that are padding in every row."""
        ids, mask, places = (
            None if rows is None else rows[:, : self.longest]
            for rows in (self.input_ids, self.attention_mask, self.places)
        )
        return replace(self, input_ids=ids, attention_mask=mask, places=places)


class TextReader(ABC):
    """A text encoder and its tokenizer, reading prompts, soft tokens or both.

    Args:
        model: Text encoder of transformers.
        tokenizer: Its tokenizer.
        max_length: Tokens of a padded prompt, special tokens included.
        uses_mask: Whether the encoder is told which tokens are padding.
        lowercase: Whether prompts are lowered and stripped first, as the T5 pipelines do.
        instruction: Text before every prompt, which does not count towards ``max_length``.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        max_length: int,
        uses_mask: bool = False,
        lowercase: bool = False,
        instruction: str = "",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.uses_mask, self.lowercase, self.instruction = uses_mask, lowercase, instruction
        self._before, self._after = _special_tokens(tokenizer)
        self.length = max_length
        if instruction:
            self._before = self._before + _ids(tokenizer, [instruction], special=False)[0]
            # The pipeline of Sana counts a special token at each end of the instruction.
            self.length = len(self._before) + max_length - 2
        self._pad = tokenizer.pad_token_id
        if self._pad is None:
            raise ConfigError("the tokenizer of a text-to-image model has no pad_token; set it, as its pipeline pads")
        self.placeholder = self._placeholder()

    @property
    def width(self) -> int:
        """Width of a word embedding, and so of a soft token."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def capacity(self) -> int:
        """Most soft tokens that fit between the special tokens."""
        return self.length - len(self._before) - len(self._after)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def embed(self, input_ids: Tensor) -> Tensor:
        """Word embeddings of int64[...]: float[..., D], as the encoder scales them."""
        embedded: Tensor = self.model.get_input_embeddings()(input_ids.to(self.device))
        return embedded

    def word_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of prompts without special tokens."""
        return _ids(self.tokenizer, self._clean(prompts), special=False)

    def tokenize(self, prompts: Sequence[str]) -> TextInputs:
        """Padded prompts, exactly as the stock pipeline tokenizes them."""
        texts = [self.instruction + text for text in self._clean(prompts)]
        encoded = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        mask = encoded.get("attention_mask", torch.ones_like(encoded["input_ids"]))
        longest = int(mask.sum(1).max())
        return TextInputs(encoded["input_ids"].to(self.device), mask.to(self.device), longest)

    def compose(
        self,
        vectors: Tensor,
        mask: Tensor | None = None,
        prompts: Sequence[str] | None = None,
        order: Order = "visual_first",
    ) -> TextInputs:
        """Prompts of soft tokens and words, padded to the same length whatever they hold.

        Args:
            vectors: float[B, K, D].
            mask: bool[B, K], False where a soft token is left out; the others move together.
            prompts: B texts that follow the soft tokens (or precede them); None or "" for none. What does not fit is
                cut off the text's end.
            order: "visual_first" or "text_first".

        Raises:
            SpecError: If the soft tokens do not fit or have another width.
            ConfigError: If the order is unknown or there is not one prompt for each row.
        """
        batch, count, width = vectors.shape
        if width != self.width:
            raise SpecError(f"soft tokens have width {width}, but this text encoder reads vectors of {self.width}")
        kept = torch.ones(batch, count, dtype=torch.bool) if mask is None else mask.bool().cpu()
        counts = kept.sum(1).tolist()
        if max(counts, default=0) > self.capacity:
            raise SpecError(
                f"{max(counts)} soft tokens do not fit: this text encoder reads {self.length} tokens, of which "
                f"{self.capacity} are free beside its special tokens; use at most {self.capacity}"
            )
        if order not in ORDERS:
            raise ConfigError(f"unknown order '{order}' of visual tokens and text; allowed are {', '.join(ORDERS)}")
        texts = [""] * batch if prompts is None else list(prompts)
        if len(texts) != batch:
            raise ConfigError(f"{len(texts)} prompts for {batch} images; give one prompt for each image")
        ids, places = [], []
        for number, words in zip(counts, self.word_ids(texts), strict=True):
            words = words[: self.capacity - number]
            soft = [self.placeholder] * number
            inner = soft + words if order == "visual_first" else words + soft
            marks = [True] * number + [False] * len(words)
            row = self._before + inner + self._after
            ids.append(row)
            marks = marks if order == "visual_first" else marks[::-1]
            places.append(
                [False] * len(self._before) + marks + [False] * (self.length - len(self._before) - len(inner))
            )
        device = vectors.device
        padded = [row + [self._pad] * (self.length - len(row)) for row in ids]
        real = [[1] * len(row) + [0] * (self.length - len(row)) for row in ids]
        return TextInputs(
            torch.tensor(padded, device=device),
            torch.tensor(real, device=device),
            max(map(len, ids), default=0),
            torch.tensor(places, device=device),
            vectors[kept.to(device)],
        )

    @abstractmethod
    def read(self, inputs: TextInputs, *, output_hidden_states: bool = False) -> Any:
        """The encoder's own output for ``inputs``."""

    def _mask(self, inputs: TextInputs) -> Tensor | None:
        return inputs.attention_mask if self.uses_mask else None

    def _clean(self, prompts: Sequence[str]) -> list[str]:
        return [text.lower().strip() if self.lowercase else text for text in prompts]

    def _placeholder(self) -> int:
        """An ordinary id: special tokens steer the pooling of CLIP."""
        special = set(self.tokenizer.all_special_ids)
        return next(i for i in range(len(self.tokenizer)) if i not in special)


class ClipReader(TextReader):
    """CLIP's text encoder, which takes no ``inputs_embeds``.

    Placeholder ids go in and a hook on the embedding table writes the soft tokens over their vectors. Causal mask,
    positions, the pooling at the first end token, hidden states and projection stay the model's own.
    """

    def read(self, inputs: TextInputs, *, output_hidden_states: bool = False) -> Any:
        handle = None
        if inputs.places is not None and inputs.vectors is not None:
            handle = self.model.get_input_embeddings().register_forward_hook(_writer(inputs.places, inputs.vectors))
        try:
            return self.model(
                inputs.input_ids, attention_mask=self._mask(inputs), output_hidden_states=output_hidden_states
            )
        finally:
            if handle is not None:
                handle.remove()

    def _placeholder(self) -> int:
        placeholder = super()._placeholder()
        end = self._after[-1] if self._after else None
        # Configs that state eos_token_id 2 pool at the largest id of the row, which must be the end token.
        if end is None or (self.model.config.eos_token_id == 2 and placeholder >= end):
            raise ConfigError(
                f"the tokenizer of a CLIP text encoder must end prompts with its largest id; it ends them with {end}"
            )
        return placeholder


class EmbedsReader(TextReader):
    """T5 and language models, which take ``inputs_embeds``."""

    def read(self, inputs: TextInputs, *, output_hidden_states: bool = False) -> Any:
        options = {"attention_mask": self._mask(inputs), "output_hidden_states": output_hidden_states}
        if inputs.places is None or inputs.vectors is None:
            return self.model(input_ids=inputs.input_ids, **options)
        embedded = write_vectors(self.embed(inputs.input_ids), inputs.places, inputs.vectors)
        return self.model(inputs_embeds=embedded, **options)


def _writer(places: Tensor, vectors: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return write_vectors(output, places, vectors)

    return hook


def write_vectors(embedded: Tensor, places: Tensor, vectors: Tensor) -> Tensor:
    """Word embeddings float[B, L, D] with ``vectors`` float[S, D] at ``places`` bool[B, L]."""
    return embedded.masked_scatter(places[..., None].to(embedded.device), vectors.to(embedded))


def _ids(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, padding=False, truncation=False)[
        "input_ids"
    ]
    return encoded


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and behind a text."""
    bare, whole = (_ids(tokenizer, ["a"], special=special)[0] for special in (False, True))
    start = next(
        (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare and len(bare) > 0), None
    )
    if start is None:
        raise ConfigError("the tokenizer changes a text when it adds special tokens; soft tokens have no place in it")
    return whole[:start], whole[start + len(bare) :]
