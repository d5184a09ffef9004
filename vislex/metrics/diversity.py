"""How varied captions are, without references: distinct n-grams, vocabulary, length and novelty."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from vislex.metrics import ptb
from vislex.metrics.base import Scorer, check_captions

__all__ = ["DIVERSITY", "score_diversity"]


def score_diversity(candidates: Mapping[Any, str], train_captions: Iterable[str] | None = None) -> dict[str, float]:
    """Diversity of a set of captions; compare only sets of the same images, since distinct-n falls with their number.

    Args:
        candidates: One caption an image.
        train_captions: What the captioner was trained on; without it there is no "novelty".

    Returns:
        "distinct-1" and "distinct-2" (different n-grams over all n-grams), "unique" (different captions over
        captions), "vocabulary" (different words), "mean-length" (words a caption) and, given the training captions,
        "novelty" (share of the captions that none of them equals after tokenization).

    Raises:
        DataError: If there are no candidates.
    """
    check_captions(candidates)
    captions = [tuple(ptb.tokenize(caption)) for caption in candidates.values()]
    words = [word for caption in captions for word in caption]
    pairs = [pair for caption in captions for pair in itertools.pairwise(caption)]
    scores = {
        "distinct-1": len(set(words)) / max(len(words), 1),
        "distinct-2": len(set(pairs)) / max(len(pairs), 1),
        "unique": len(set(captions)) / len(captions),
        "vocabulary": float(len(set(words))),
        "mean-length": len(words) / len(captions),
    }
    if train_captions is not None:
        known = {tuple(ptb.tokenize(caption)) for caption in train_captions}
        scores["novelty"] = sum(caption not in known for caption in captions) / len(captions)
    return scores


DIVERSITY = Scorer(
    "diversity@1",
    ("distinct-1", "distinct-2", "unique", "vocabulary", "mean-length"),
    ("candidates",),
    score_diversity,
)
