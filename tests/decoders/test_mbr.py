from __future__ import annotations

import pytest
import torch

from vislex.decoders.mbr import _ngrams as ngrams
from vislex.decoders.mbr import consensus, ngram_cosine, ngram_f1
from vislex.errors import ConfigError
from vislex.metrics import score_captions_per_image

PAD, CLS, SEP = 0, 1, 2
IDS = torch.tensor(
    [
        [CLS, 10, 11, 12, 13, SEP, PAD],
        [CLS, 10, 11, 12, 14, 15, SEP],  # shares most with both others
        [CLS, 11, 12, 14, 15, SEP, PAD],
        [CLS, 20, 21, 22, 23, SEP, PAD],
        [CLS, 30, 31, 32, 33, 34, SEP],
        [CLS, 20, 21, 22, 24, SEP, PAD],
    ]
)


@pytest.mark.parametrize("utility", ["f1", "cosine"])
def test_the_consensus_agrees_most_with_the_others(utility: str) -> None:
    assert consensus(IDS, 3, special_ids=(PAD, CLS, SEP), utility=utility).tolist() == [1, 3]  # type: ignore[arg-type]
    alone = consensus(IDS[3:], 3, special_ids=(PAD, CLS, SEP), utility=utility)  # type: ignore[arg-type]
    assert alone.tolist() == [0]
    assert consensus(IDS, 1).tolist() == [0, 1, 2, 3, 4, 5]


def test_special_tokens_are_no_agreement() -> None:
    ids = torch.tensor([[5, PAD, PAD, PAD], [6, PAD, PAD, PAD], [7, 8, 9, 4], [7, 8, 9, 3]])
    assert consensus(ids, 4).tolist() == [0]
    assert consensus(ids, 4, special_ids=[PAD]).tolist() == [2]


def test_the_overlap_counts_ngrams_as_bleu_does() -> None:
    first, second = [1, 2, 3, 1, 2, 9], [1, 2, 3, 4, 2]
    texts = [" ".join(f"w{token}" for token in tokens) for tokens in (first, second)]
    counts = score_captions_per_image({0: texts[0]}, {0: [texts[1]]}, tokenized=True)["BLEU-statistics"][0]
    totals = [len(first) + len(second) - 2 * n for n in range(4)]
    expected = sum(2 * counts[n] / totals[n] for n in range(4)) / 4
    assert ngram_f1(ngrams(first), ngrams(second)) == pytest.approx(expected)
    assert ngram_f1(ngrams(second), ngrams(first)) == pytest.approx(expected)


def test_the_cosine_is_cider_d_where_every_ngram_is_equally_rare() -> None:
    """Two images with no n-gram in common: all document frequencies are 1, but the penalty counts bigrams there too."""
    first, second = [1, 2, 3, 1, 2, 9], [1, 2, 3, 4, 2, 5]
    text = [" ".join(f"w{token}" for token in tokens) for tokens in (first, second)]
    scores = score_captions_per_image({0: text[0], 1: "x"}, {0: [text[1]], 1: ["y z"]}, tokenized=True)["CIDEr-D"]
    assert 10 * ngram_cosine(ngrams(first), ngrams(second)) == pytest.approx(scores[0], rel=1e-5)


def test_another_length_agrees_less() -> None:
    long = [1, 2, 3, 4, 5, 6]
    assert ngram_cosine(ngrams(long), ngrams(long)) == pytest.approx(1.0)
    assert ngram_f1(ngrams(long), ngrams(long)) == 1
    assert ngram_cosine(ngrams(long[:5]), ngrams(long)) < 1


def test_wrong_calls_are_explained() -> None:
    with pytest.raises(ConfigError, match="6 captions are not num_candidates=4"):
        consensus(IDS, 4)
    with pytest.raises(ConfigError, match="unknown utility 'cosin'; did you mean 'cosine'"):
        consensus(IDS, 3, utility="cosin")  # type: ignore[arg-type]
