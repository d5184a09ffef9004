import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vislex.errors import DataError
from vislex.metrics import ptb, score_captions, score_captions_per_image
from vislex.metrics.captions import bleu_from_statistics

GOLDEN = Path(__file__).parents[1] / "golden" / "captions"
WORDS = st.sampled_from(["a", "red", "dog", "near", "the", "cat", "don't", "sit", "!!", "(left)"])
CAPTION = st.lists(WORDS, max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def golden():
    captions = json.loads((GOLDEN / "input.json").read_text(encoding="utf-8"))
    return captions, json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def test_tokenizer_reproduces_the_official_program_on_every_line(golden):
    captions, expected = golden
    pairs = [(captions["candidates"][k], expected["tokenized_candidates"][k]) for k in captions["candidates"]]
    for k, group in captions["references"].items():
        pairs += zip(group, expected["tokenized_references"][k], strict=True)
    assert len(pairs) == 6000
    assert [raw for raw, tokens in pairs if " ".join(ptb.tokenize(raw)) != tokens] == []


def test_corpus_scores_from_raw_captions_equal_the_official_ones(golden):
    captions, expected = golden
    scores = score_captions(captions["candidates"], captions["references"])
    assert set(scores) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"}
    for name, value in scores.items():
        assert value == pytest.approx(expected["corpus"][name], abs=1e-3), name


def test_scores_given_the_official_tokens_agree_to_1e9_per_corpus_and_image(golden):
    _, expected = golden
    arguments = expected["tokenized_candidates"], expected["tokenized_references"]
    for name, value in score_captions(*arguments, tokenized=True).items():
        assert value == pytest.approx(expected["corpus"][name], abs=1e-9), name
    per_image = score_captions_per_image(*arguments, tokenized=True)
    np.testing.assert_allclose(per_image["CIDEr-D"], expected["cider_per_image"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(per_image["ROUGE-L"], expected["rouge_per_image"], rtol=0, atol=1e-9)


def test_bleu_statistics_sum_to_the_corpus_score(golden):
    captions, expected = golden
    statistics = score_captions_per_image(captions["candidates"], captions["references"])["BLEU-statistics"]
    assert statistics.shape == (1000, 10)
    bleu = bleu_from_statistics(statistics.sum(axis=0))
    np.testing.assert_allclose(bleu, [expected["corpus"][f"BLEU-{n}"] for n in range(1, 5)], atol=1e-9)


def test_one_image_has_no_document_frequency_so_cider_is_zero():
    scores = score_captions({"a": "a red dog"}, {"a": ["a red dog"]})
    assert scores["CIDEr-D"] == 0.0
    assert scores["ROUGE-L"] == pytest.approx(1.0)


def test_empty_captions_score_as_in_the_official_program():
    scores = score_captions_per_image({"a": "", "b": "."}, {"a": ["a dog"], "b": ["!"]})
    assert scores["ROUGE-L"].tolist() == pytest.approx([0.0, 1.0])  # empty against empty matches
    assert scores["CIDEr-D"].tolist() == [0.0, 0.0]
    assert scores["BLEU-statistics"][:, 8].tolist() == [0, 0]


def test_cider_of_captions_that_share_no_n_gram_is_zero_and_of_some_shared_worked_out_by_hand():
    candidates = {"a": "red dog", "b": "two cats", "c": "a tree"}
    references = {"a": ["one bird flies"], "b": ["two cats"], "c": ["tree"]}
    cider = score_captions_per_image(candidates, references)["CIDEr-D"]
    assert cider[0] == 0.0
    # b: equal captions, cosine 1 for n = 1 and 2, no 3- and 4-grams: the mean of (1, 1, 0, 0), times 10.
    assert cider[1] == pytest.approx(5.0)
    # c: "tree" is in one of three references (idf log 3), as is "a" by its unseen count, max(1, 0): the cosine is
    # 1 / sqrt(2), and the candidate is one word longer (sigma 6).
    assert cider[2] == pytest.approx(10 / 4 * np.exp(-1 / 72) / np.sqrt(2))


def test_order_of_images_follows_the_candidates():
    candidates = {"a": "a red dog sits", "b": "two cats", "c": "a tree"}
    references = {"c": ["a tree"], "a": ["a red dog sits here"], "b": ["one bird"]}
    forward = score_captions_per_image(candidates, references)
    backward = score_captions_per_image(dict(reversed(candidates.items())), references)
    for name, values in forward.items():
        np.testing.assert_allclose(values, backward[name][::-1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_scores_stay_in_their_ranges_and_a_copied_reference_is_never_beaten(rows):
    candidates = {i: caption for i, (caption, _) in enumerate(rows)}
    references = {i: group for i, (_, group) in enumerate(rows)}
    scores = score_captions_per_image(candidates, references)
    for name, top in (("CIDEr-D", 10), ("ROUGE-L", 1)):
        assert (scores[name] >= 0).all(), name
        assert (scores[name] <= top + 1e-9).all(), name
    bleu = bleu_from_statistics(scores["BLEU-statistics"].sum(axis=0))
    assert ((bleu >= 0) & (bleu <= 1 + 1e-9)).all()

    alone = {i: group[:1] for i, group in references.items()}
    copied = score_captions_per_image({i: group[0] for i, group in alone.items()}, alone)
    other = score_captions_per_image(candidates, alone)
    assert (copied["CIDEr-D"] >= other["CIDEr-D"] - 1e-9).all()
    assert copied["ROUGE-L"] == pytest.approx(np.ones(len(rows)))


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=9), st.lists(WORDS, min_size=1, max_size=9))
def test_rouge_matches_a_plain_longest_common_subsequence(candidate, reference):
    best = max(
        n
        for n in range(len(candidate) + 1)
        for kept in itertools.combinations(candidate, n)
        if _is_subsequence(kept, reference)
    )
    got = score_captions_per_image({0: " ".join(candidate)}, {0: [" ".join(reference)]}, tokenized=True)["ROUGE-L"][0]
    precision, recall = best / len(candidate), best / len(reference)
    beta = 1.2**2
    want = (1 + beta) * precision * recall / (recall + beta * precision) if best else 0.0
    assert got == pytest.approx(want)


def _is_subsequence(part, whole):
    rest = iter(whole)
    return all(word in rest for word in part)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "no candidate captions"),
        ({"a": "x"}, {"b": ["x"]}, "'a'.*'b'"),
        ({"a": "x"}, {"a": []}, "'a' has no reference"),
        ({"a": "x"}, {"a": "x"}, "one string"),
        ({"a": ["x"]}, {"a": ["x"]}, "is list"),
        ({"a": "x"}, {"a": ["x", None]}, "not a string"),
    ],
)
def test_captions_that_cannot_be_scored_are_refused(candidates, references, message):
    with pytest.raises(DataError, match=message):
        score_captions(candidates, references)
