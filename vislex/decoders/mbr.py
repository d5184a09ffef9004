"""Minimum Bayes risk: of several captions of an image, the one that agrees most with the others.

The agreement is an n-gram overlap of word pieces, so it needs neither a tokenizer nor references and takes a caption
as it is, whatever batch it stands in.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from vislex.errors import ConfigError, did_you_mean

__all__ = ["UTILITIES", "consensus", "ngram_cosine", "ngram_f1"]

MAX_N = 4
SIGMA = 6.0  # of the length penalty, in word pieces, as in CIDEr-D

NGrams = tuple[Counter[tuple[int, ...]], ...]  # for n = 1 ... 4
Utility = Callable[[NGrams, NGrams], float]


def ngram_f1(first: NGrams, second: NGrams) -> float:
    """Mean over n of 2 x shared n-grams / n-grams of both, as BLEU counts them; symmetric, in [0, 1]."""
    return sum(_share(2 * (a & b).total(), a.total() + b.total()) for a, b in zip(first, second, strict=True)) / MAX_N


def ngram_cosine(first: NGrams, second: NGrams) -> float:
    """CIDEr-D's similarity without document frequencies: clipped cosine, less for another length; in [0, 1]."""
    cosines = [
        _share(sum(min(count, b[gram]) * b[gram] for gram, count in a.items()), (_square(a) * _square(b)) ** 0.5)
        for a, b in zip(first, second, strict=True)
    ]
    length = first[0].total() - second[0].total()
    penalty = math.exp(-(length**2) / (2 * SIGMA**2))
    return penalty * sum(cosines) / MAX_N


UTILITIES: dict[str, Utility] = {"f1": ngram_f1, "cosine": ngram_cosine}


def consensus(
    ids: Tensor, num_candidates: int, *, special_ids: Iterable[int] = (), utility: Literal["f1", "cosine"] = "f1"
) -> Tensor:
    """Picks the candidate of each image with the highest mean utility against the others.

    Args:
        ids: int64[B * K, L], the K candidates of an image one after the other.
        num_candidates: K.
        special_ids: Ids that are no words ([CLS], [SEP], [PAD]).
        utility: "f1" (n-gram overlap as in BLEU) or "cosine" (as in CIDEr-D).

    Returns:
        int64[B], rows of ``ids``; the first of equally good candidates.

    Raises:
        ConfigError: If K does not divide the rows, or there is no such utility.
    """
    if num_candidates < 1 or len(ids) % num_candidates:
        raise ConfigError(f"{len(ids)} captions are not num_candidates={num_candidates} for each image")
    if utility not in UTILITIES:
        raise ConfigError(
            f"unknown utility '{utility}'{did_you_mean(utility, UTILITIES)} Known: {', '.join(UTILITIES)}"
        )
    special = set(special_ids)
    grams = [_ngrams([token for token in row if token not in special]) for row in ids.tolist()]
    chosen = []
    for start in range(0, len(ids), num_candidates):
        group = range(start, start + num_candidates)
        gain = dict.fromkeys(group, 0.0)
        for i, j in itertools.permutations(group, 2):
            gain[i] += UTILITIES[utility](grams[i], grams[j])
        chosen.append(max(group, key=gain.__getitem__))
    return torch.tensor(chosen, dtype=torch.long, device=ids.device)


def _ngrams(tokens: Sequence[int]) -> NGrams:
    return tuple(Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for n in range(1, MAX_N + 1))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _square(counts: Counter[tuple[int, ...]]) -> int:
    return sum(count * count for count in counts.values())
