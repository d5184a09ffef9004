"""The words of a text encoder that soft tokens come nearest to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vislex.diffusion.t2i.base import TextToImage
from vislex.errors import ConfigError, SpecError

__all__ = ["TokenWords", "nearest_words", "snap_to_words", "word_ids"]


@dataclass(frozen=True)
class TokenWords:
    """The words nearest to one token.

    Attributes:
        words: Pieces of the text encoder's vocabulary, nearest first.
        similarities: Their cosine similarities.
        norm: Length of the token.
        word_norm: Mean length of a word embedding.
    """

    words: tuple[str, ...]
    similarities: tuple[float, ...]
    norm: float
    word_norm: float


@torch.no_grad()
def nearest_words(t2i: TextToImage, tokens: Tensor, k: int = 3) -> list[list[list[TokenWords]]]:
    """Words whose embeddings point most nearly where soft tokens point.

    Args:
        t2i: The text-to-image model.
        tokens: float[B, K, sum(widths)].
        k: Words for each token.

    Returns:
        For each image, for each text encoder, the words of each token.
    """
    found: list[list[list[TokenWords]]] = [[] for _ in tokens]
    for text, part in zip(t2i.texts, tokens.float().split(t2i.widths, dim=-1), strict=True):
        table = text.embed(torch.arange(len(text.tokenizer))).float()  # [V, D]
        word_norm = float(table.norm(dim=-1).mean())
        best = (F.normalize(part, dim=-1) @ F.normalize(table, dim=-1).T).topk(k, dim=-1)
        for own, near, ids, norms in zip(found, best.values, best.indices, part.norm(dim=-1), strict=True):
            names = [tuple(text.tokenizer.convert_ids_to_tokens(row)) for row in ids.tolist()]
            rows = zip(names, near.tolist(), norms.tolist(), strict=True)
            own.append([TokenWords(words, tuple(values), norm, word_norm) for words, values, norm in rows])
    return found


def word_ids(t2i: TextToImage, texts: Iterable[str]) -> list[int]:
    """Sorted ids of all ordinary words in texts: a vocabulary that the text-to-image model knows.

    Raises:
        SpecError: If it has several text encoders, whose words differ.
        ConfigError: If there are no words.
    """
    if len(t2i.texts) != 1:
        raise SpecError(
            f"{t2i.pipeline_name} has {len(t2i.texts)} text encoders with vocabularies of their own; discrete tokens "
            "need a text-to-image model with one (Stable Diffusion 1.x and 2.x, PixArt, Sana, DeepFloyd IF)"
        )
    text = t2i.texts[0]
    special = set(text.tokenizer.all_special_ids)
    found = sorted({number for row in text.word_ids(list(texts)) for number in row} - special)
    if not found:
        raise ConfigError("the vocabulary of discrete tokens holds no word that the text encoder knows")
    return found


@torch.no_grad()
def snap_to_words(t2i: TextToImage, tokens: Tensor, vocabulary: Sequence[int] | None = None) -> Tensor:
    """Replaces each soft token by the word embedding nearest to it in angle.

    Args:
        t2i: The text-to-image model.
        tokens: float[B, K, sum(widths)].
        vocabulary: Ids of the allowed words of a model with one text encoder; all words by default.

    Returns:
        float[B, K, sum(widths)].
    """
    snapped = []
    for text, part in zip(t2i.texts, tokens.split(t2i.widths, dim=-1), strict=True):
        ids = torch.arange(len(text.tokenizer)) if vocabulary is None else torch.tensor(vocabulary)
        table = text.embed(ids)  # [V, D]
        nearest = (F.normalize(part.float(), dim=-1) @ F.normalize(table.float(), dim=-1).T).argmax(-1)
        snapped.append(table[nearest].to(part))
    return torch.cat(snapped, dim=-1)
