"""BLEU, ROUGE-L and CIDEr-D as the official caption evaluation (pycocoevalcap) computes them, without Java.

All sentences are turned into arrays of n-gram ids at once, so that counts, document frequencies and matches are
sorted-array operations. Values equal the official program's to floating-point rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vislex.metrics import ptb
from vislex.metrics.base import Scorer, check_captions

__all__ = ["BLEU", "CIDER_D", "ROUGE_L", "bleu_from_statistics", "score_captions", "score_captions_per_image"]

MAX_N = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2
BLEU_TINY, BLEU_SMALL = 1e-15, 1e-9  # the official guards against 0 / 0


def score_captions(
    candidates: Mapping[Any, str], references: Mapping[Any, Sequence[str]], *, tokenized: bool = False
) -> dict[str, float]:
    """Corpus scores on the official scales.

    Args:
        candidates: One caption an image.
        references: One or more captions an image, under the same ids.
        tokenized: Whether the captions are tokens joined by single spaces already; else ``ptb`` cuts them.

    Returns:
        "BLEU-1" to "BLEU-4" and "ROUGE-L" in [0, 1], "CIDEr-D" in [0, 10].

    Raises:
        DataError: If there are no candidates, the ids differ, or an image has no reference.
    """
    per_image = score_captions_per_image(candidates, references, tokenized=tokenized)
    bleu = bleu_from_statistics(per_image["BLEU-statistics"].sum(axis=0))
    scores = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
    return scores | {name: float(np.mean(per_image[name])) for name in ("ROUGE-L", "CIDEr-D")}


def score_captions_per_image(
    candidates: Mapping[Any, str], references: Mapping[Any, Sequence[str]], *, tokenized: bool = False
) -> dict[str, np.ndarray]:
    """Scores of each image, in the order of ``candidates``; what the bootstrap resamples.

    Args:
        candidates: One caption an image.
        references: One or more captions an image, under the same ids.
        tokenized: As in ``score_captions``.

    Returns:
        "CIDEr-D" float64[N] with the inverse document frequency of all N images, "ROUGE-L" float64[N], and
        "BLEU-statistics" int64[N, 10]: matched n-grams (n = 1..4), n-grams of the candidate (n = 1..4), length of
        the candidate, length of the closest reference. Their sum over images gives ``bleu_from_statistics``.

    Raises:
        DataError: If there are no candidates, the ids differ, or an image has no reference.
    """
    check_captions(candidates, references)
    split = _split_tokenized if tokenized else ptb.tokenize
    hypotheses = [split(caption) for caption in candidates.values()]
    targets = [[split(caption) for caption in references[name]] for name in candidates]
    counts = _NGrams.of(hypotheses, targets)
    return {
        "CIDEr-D": _cider(counts),
        "ROUGE-L": np.array([_rouge(words, group) for words, group in zip(hypotheses, targets, strict=True)]),
        "BLEU-statistics": _bleu_statistics(counts),
    }


def bleu_from_statistics(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of summed statistics.

    Args:
        sums: float[..., 10], "BLEU-statistics" summed over the images of a corpus.

    Returns:
        float64[..., 4].
    """
    sums = np.asarray(sums, dtype=np.float64)
    precision = (sums[..., :MAX_N] + BLEU_TINY) / (sums[..., MAX_N : 2 * MAX_N] + BLEU_SMALL)
    bleu = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, MAX_N + 1))
    ratio = (sums[..., 8:9] + BLEU_TINY) / (sums[..., 9:10] + BLEU_SMALL)
    return bleu * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _split_tokenized(caption: str) -> list[str]:
    return caption.split(" ") if caption else []


@dataclass
class _Counts:
    """N-grams of one order. Candidate i is sentence i; references follow.

    Entries are (sentence, n-gram) pairs with their count; ``match`` is the candidate's entry for the same image and
    n-gram, -1 if it has none.
    """

    candidate: np.ndarray  # int64[C] image of each candidate entry
    candidate_count: np.ndarray  # float64[C]
    candidate_idf: np.ndarray  # float64[C]
    reference: np.ndarray  # int64[R] reference of each reference entry
    reference_count: np.ndarray  # float64[R]
    reference_idf: np.ndarray  # float64[R]
    match: np.ndarray  # int64[R]


@dataclass
class _NGrams:
    """Counts of every order, and the lengths of all sentences."""

    image_of_reference: np.ndarray  # int64[T]
    candidate_length: np.ndarray  # int64[N]
    reference_length: np.ndarray  # int64[T]
    orders: list[_Counts]

    @classmethod
    def of(cls, hypotheses: list[list[str]], targets: list[list[list[str]]]) -> _NGrams:
        # a no-break space inside a token ("2 1/2") is a space to the official n-gram counters
        sentences = [" ".join(words).split() for words in hypotheses]
        sentences += [" ".join(words).split() for group in targets for words in group]
        n_images = len(hypotheses)
        image = np.concatenate([np.arange(n_images), np.repeat(np.arange(n_images), [len(group) for group in targets])])
        lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        vocabulary: dict[str, int] = {}
        flat = [vocabulary.setdefault(word, len(vocabulary)) for words in sentences for word in words]
        tokens = np.array(flat, dtype=np.int64)
        sentence = np.repeat(np.arange(len(sentences)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))  # words from here to the end

        orders, grams = [], tokens
        for n in range(1, MAX_N + 1):
            if n > 1:
                keep = np.flatnonzero(left >= n)
                longer = np.full(len(tokens), -1, dtype=np.int64)
                pairs = grams[keep] * max(len(vocabulary), 1) + tokens[keep + n - 1]
                longer[keep] = np.unique(pairs, return_inverse=True)[1]
                grams = longer
            at = np.flatnonzero(left >= n)
            orders.append(_count(sentence[at], grams[at], image, n_images))
        return cls(image[n_images:], lengths[:n_images], lengths[n_images:], orders)


def _count(sentence: np.ndarray, gram: np.ndarray, image: np.ndarray, n_images: int) -> _Counts:
    size = int(gram.max(initial=0)) + 1
    entries, counts = np.unique(sentence * size + gram, return_counts=True)
    entry_sentence, entry_gram = entries // size, entries % size
    is_reference = entry_sentence >= n_images
    key = image[entry_sentence] * size + entry_gram
    frequency = np.bincount(np.unique(key[is_reference]) % size, minlength=size)  # images whose references have it
    idf = np.log(n_images) - np.log(np.maximum(frequency, 1.0))

    candidate_key, reference_key = key[~is_reference], key[is_reference]
    match = np.full(len(reference_key), -1, dtype=np.int64)
    if len(candidate_key):
        place = np.minimum(np.searchsorted(candidate_key, reference_key), len(candidate_key) - 1)
        match = np.where(candidate_key[place] == reference_key, place, -1)
    return _Counts(
        candidate=entry_sentence[~is_reference],
        candidate_count=counts[~is_reference].astype(np.float64),
        candidate_idf=idf[entry_gram[~is_reference]],
        reference=entry_sentence[is_reference] - n_images,
        reference_count=counts[is_reference].astype(np.float64),
        reference_idf=idf[entry_gram[is_reference]],
        match=match,
    )


def _cider(ngrams: _NGrams) -> np.ndarray:
    """CIDEr-D of each image: clipped cosine of tf-idf vectors, with a Gaussian of the length difference in bigrams."""
    image, n_images = ngrams.image_of_reference, len(ngrams.candidate_length)
    n_references = len(image)
    similarity = np.zeros(n_references)
    for counts in ngrams.orders:
        hypothesis = counts.candidate_count * counts.candidate_idf
        target = counts.reference_count * counts.reference_idf
        hit = counts.match >= 0
        product = np.minimum(hypothesis[counts.match[hit]], target[hit]) * target[hit]
        value = _sum(counts.reference[hit], product, n_references)
        norm = np.sqrt(_sum(counts.candidate, hypothesis**2, n_images))[image]
        norm = norm * np.sqrt(_sum(counts.reference, target**2, n_references))
        similarity += np.divide(value, norm, out=np.zeros(n_references), where=norm != 0)
    bigrams_off = np.maximum(ngrams.candidate_length - 1, 0)[image] - np.maximum(ngrams.reference_length - 1, 0)
    similarity *= np.exp(-(bigrams_off**2) / (2 * CIDER_SIGMA**2)) / MAX_N
    total = _sum(image, similarity, n_images)
    return 10.0 * total / np.bincount(image, minlength=n_images)


def _sum(index: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """float64[size]: weights summed by index; ``np.bincount`` alone gives integers where there is nothing to sum."""
    return np.bincount(index, weights, size).astype(np.float64, copy=False)


def _bleu_statistics(ngrams: _NGrams) -> np.ndarray:
    """int64[N, 10]: matches clipped by the largest count in one reference, n-grams, lengths."""
    image, n_images = ngrams.image_of_reference, len(ngrams.candidate_length)
    statistics = np.zeros((n_images, 2 * MAX_N + 2), dtype=np.int64)
    for n, counts in enumerate(ngrams.orders):
        largest = np.zeros(len(counts.candidate))
        hit = counts.match >= 0
        np.maximum.at(largest, counts.match[hit], counts.reference_count[hit])
        clipped = np.minimum(counts.candidate_count, largest)
        statistics[:, n] = _sum(counts.candidate, clipped, n_images)
        statistics[:, MAX_N + n] = np.maximum(ngrams.candidate_length - n, 0)
    statistics[:, 8] = ngrams.candidate_length
    distance = np.abs(ngrams.reference_length - ngrams.candidate_length[image])
    order = np.lexsort((ngrams.reference_length, distance, image))  # closest first, the shorter of two
    first = np.unique(image[order], return_index=True)[1]
    statistics[:, 9] = ngrams.reference_length[order][first]
    return statistics


def _rouge(candidate: list[str], references: list[list[str]]) -> float:
    """F-measure of the longest common subsequence; best precision and best recall are taken independently."""
    candidate = candidate or [""]  # the official program splits an empty caption into one empty token
    where: dict[str, int] = {}
    for place, word in enumerate(candidate):
        where[word] = where.get(word, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        words = reference or [""]
        common = _common_subsequence(where, len(candidate), words)
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / len(words))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _common_subsequence(where: Mapping[str, int], length: int, words: list[str]) -> int:
    """Length of the longest common subsequence by Hyyrö's bit-parallel recurrence; bit i stands for place i."""
    full = (1 << length) - 1
    state = full
    for word in words:
        if matches := state & where.get(word, 0):
            state = ((state + matches) | (state - matches)) & full
    return length - state.bit_count()


BLEU = Scorer("bleu@1", tuple(f"BLEU-{n}" for n in range(1, 5)), ("candidates", "references"), score_captions)
ROUGE_L = Scorer("rouge-l@1", ("ROUGE-L",), ("candidates", "references"), score_captions)
CIDER_D = Scorer("cider-d@1", ("CIDEr-D",), ("candidates", "references"), score_captions)
