"""Minimum Bayes risk: of several captions of an image, the one that agrees most with the others.

The agreement is an n-gram overlap of word pieces, so it needs neither a tokenizer nor references and takes a caption
as it is, whatever batch it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vislex.errors import ConfigError, did_you_mean

__all__ = ["Utility", "agreement", "consensus"]

MAX_N = 4
SIGMA = 6.0  # of the length penalty, in word pieces, as in CIDEr-D

Utility = Literal["f1", "cosine"]


def consensus(ids: Tensor, num_candidates: int, *, special_ids: Iterable[int] = (), utility: Utility = "f1") -> Tensor:
    """Picks the candidate of each image with the highest mean utility against the others.

    Args:
        ids: int64[B * K, L], the K candidates of an image one after the other.
        num_candidates: K.
        special_ids: Ids that are no words ([CLS], [SEP], [PAD]).
        utility: See ``agreement``.

    Returns:
        int64[B], rows of ``ids``; the first of equally good candidates.

    Raises:
        ConfigError: If K does not divide the rows, or there is no such utility.
    """
    if num_candidates < 1 or len(ids) % num_candidates:
        raise ConfigError(f"{len(ids)} captions are not num_candidates={num_candidates} for each image")
    first = torch.arange(0, len(ids), num_candidates, device=ids.device)
    if num_candidates == 1:
        return first
    groups = ids.cpu().unflatten(0, (-1, num_candidates))
    gain = agreement(groups, special_ids=special_ids, utility=utility)
    gain.diagonal(dim1=1, dim2=2).zero_()
    return first + gain.sum(2).argmax(1).to(ids.device)


def agreement(ids: Tensor, *, special_ids: Iterable[int] = (), utility: Utility = "f1") -> Tensor:
    """How much each caption of an image agrees with each other one.

    Args:
        ids: int64[B, K, L], K captions of each of B images.
        special_ids: Ids that are no words.
        utility: "f1", the mean over n of 2 x shared n-grams / n-grams of both, counted as in BLEU; or "cosine",
            CIDEr-D's similarity without document frequencies: clipped cosine, less for another length.

    Returns:
        float64[B, K, K] in [0, 1]: of caption i, held against caption j.

    Raises:
        ConfigError: If there is no such utility.
    """
    if utility not in (known := get_args(Utility)):
        raise ConfigError(f"unknown utility '{utility}'{did_you_mean(utility, known)} Known: {', '.join(known)}")
    is_word = ~torch.isin(ids, torch.tensor(list(special_ids), dtype=ids.dtype))
    order = (~is_word).long().argsort(dim=2, stable=True)  # words first
    lengths = is_word.sum(2)
    total = torch.zeros(*ids.shape[:2], ids.shape[1], dtype=torch.float64)
    for counts in _ngram_counts(ids.gather(2, order), lengths):
        # min(a, b) is the number of levels 1, 2, ... that both counts reach.
        levels = [(counts >= level).to(counts) for level in range(1, int(counts.max()) + 1)]
        if utility == "f1":
            part = sum(2 * reached @ reached.mT for reached in levels)
            whole = counts.sum(2)[:, :, None] + counts.sum(2)[:, None]
        else:
            part = sum(reached @ (reached * counts).mT for reached in levels)
            square = (counts**2).sum(2)
            whole = (square[:, :, None] * square[:, None]).double().sqrt()
        total += part / whole.double().clamp(min=1)  # no n-gram, no agreement
    if utility == "cosine":
        total *= (-((lengths[:, :, None] - lengths[:, None]).double() ** 2) / (2 * SIGMA**2)).exp()
    return total / MAX_N


def _ngram_counts(words: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    """For n = 1 ... 4: how often each n-gram of an image's captions stands in each of them, float32[B, K, G].

    Args:
        words: int64[B, K, L].
        lengths: int64[B, K], words of each; what is behind them does not count.
    """
    words = F.pad(words[..., : int(lengths.max())], (0, MAX_N))
    places = torch.arange(words.shape[2])
    size = int(words.max()) + 1
    # Numbers of n-grams, those of an image one after another; of the empty n-gram the image itself.
    grams = torch.arange(len(words))[:, None, None].expand_as(words)
    for n in range(MAX_N):
        longer = grams[..., : words.shape[2] - n] * size + words[..., n:]
        grams = longer.unique(return_inverse=True)[1]
        column = grams - grams.amin((1, 2), keepdim=True)
        counted = (places[n:] < lengths[..., None]).float()
        counts = torch.zeros(*words.shape[:2], int(column.max()) + 1)
        yield counts.scatter_add_(2, column, counted)
