"""The words of a text encoder that soft tokens come nearest to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vislex.diffusion.t2i.base import TextToImage

__all__ = ["TokenWords", "nearest_words"]


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
