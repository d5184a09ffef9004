"""Retrieval between images and texts: recall at k from embeddings or scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["recall_at_k", "retrieval_recall"]


def recall_at_k(scores: np.ndarray, positives: np.ndarray, k: int) -> float:
    """Share of the queries whose k best-scored candidates hold a positive one; queries without one are left out.

    Args:
        scores: float[Q, C].
        positives: bool[Q, C].
        k: Number of candidates looked at.
    """
    k = min(k, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    hits = np.take_along_axis(positives, best, axis=1).any(axis=1)
    asked = np.flatnonzero(positives.any(axis=1))
    return float(np.mean(np.asarray(hits)[asked]))


def retrieval_recall(
    image_embeds: np.ndarray, text_embeds: np.ndarray, captions: Sequence[Sequence[str]], *, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Recall in both directions. Equal captions of several images are one text, right for each of these images.

    Args:
        image_embeds: float[N, D], unit length.
        text_embeds: float[T, D], unit length, one for each of ``dict.fromkeys`` of all captions, in this order.
        captions: The references of each image.

    Returns:
        ``image_to_text_R@k`` and ``text_to_image_R@k`` in [0, 1].
    """
    texts = {text: i for i, text in enumerate(dict.fromkeys(text for own in captions for text in own))}
    positives = np.zeros((len(captions), len(texts)), dtype=bool)
    for image, own in enumerate(captions):
        positives[image, [texts[text] for text in own]] = True
    scores = image_embeds @ text_embeds.T
    figures = {f"image_to_text_R@{k}": recall_at_k(scores, positives, k) for k in ks}
    return {**figures, **{f"text_to_image_R@{k}": recall_at_k(scores.T, positives.T, k) for k in ks}}
