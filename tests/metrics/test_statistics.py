import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vislex.errors import DataError
from vislex.metrics import (
    PairedInterval,
    bootstrap_bleu,
    exact_binomial_interval,
    paired_bootstrap,
    paired_ratio,
    score_captions,
    score_captions_per_image,
    verdict,
)


def test_pairing_removes_what_both_arms_share():
    draw = np.random.default_rng(0)
    shared = draw.normal(0, 5, 400)
    a, b = shared + 0.3 + draw.normal(0, 0.1, 400), shared + draw.normal(0, 0.1, 400)
    interval = paired_bootstrap(a, b)
    assert interval.difference == pytest.approx(np.mean(a - b))
    assert interval.low < interval.difference < interval.high
    assert interval.high - interval.low < 0.05
    assert interval.p_worse == 0.0
    assert (interval.n, interval.n_seeds) == (400, 1)
    backward = paired_bootstrap(b, a)
    assert backward.low == pytest.approx(-interval.high)
    assert backward.p_worse == 1.0


def test_equal_arms_give_zero_and_are_undecided():
    same = np.ones((3, 10))
    interval = paired_bootstrap(same, same)
    assert (interval.difference, interval.low, interval.high, interval.p_worse) == (0, 0, 0, 0.5)
    assert verdict(interval, 0.0) == "inconclusive"


def test_the_interval_covers_image_sampling_as_the_normal_theory_says():
    difference = np.random.default_rng(1).normal(0.2, 1.0, 500)
    interval = paired_bootstrap(difference, np.zeros(500), n_resamples=4000)
    error = difference.std() / np.sqrt(500)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert interval.minimal_detectable_effect == pytest.approx((1.96 + 0.8416) * error, rel=0.06)


def test_spread_between_seeds_widens_the_interval_without_bias_for_few_seeds():
    by_seed = np.array([-0.1, 0.0, 0.1])
    a = np.repeat(by_seed[:, None], 2000, axis=1)  # images do not vary: all spread comes from the seeds
    interval = paired_bootstrap(a, np.zeros_like(a), n_resamples=8000)
    standard_error = by_seed.std(ddof=1) / np.sqrt(3)
    assert interval.minimal_detectable_effect == pytest.approx((1.96 + 0.8416) * standard_error, rel=0.05)
    assert interval.n_seeds == 3


def test_same_seed_same_interval_and_chunks_do_not_matter(monkeypatch):
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(2, 50)), draw.normal(size=(2, 50))
    whole = paired_bootstrap(a, b, n_resamples=200)
    assert whole == paired_bootstrap(a, b, n_resamples=200)
    assert whole != paired_bootstrap(a, b, n_resamples=200, seed=1)
    monkeypatch.setattr("vislex.metrics.statistics.CELLS", 50 * 7)
    assert paired_bootstrap(a, b, n_resamples=200).to_dict() == pytest.approx(whole.to_dict())


def test_bleu_is_resampled_by_its_statistics():
    references = {i: [f"a red dog number{i} sits on the mat"] for i in range(40)}
    good = {i: f"a red dog number{i} sits on a mat" for i in range(40)}
    bad = {i: f"a red cat number{i} sits on grass" for i in range(40)}
    statistics = [score_captions_per_image(arm, references)["BLEU-statistics"] for arm in (good, bad)]
    interval = bootstrap_bleu(*statistics, n=2, n_resamples=200)
    want = score_captions(good, references)["BLEU-2"] - score_captions(bad, references)["BLEU-2"]
    assert interval.difference == pytest.approx(want)
    assert verdict(interval) == "holds"
    stacked = [np.stack([arm, arm]) for arm in statistics]
    assert bootstrap_bleu(*stacked, n=2, n_resamples=200).difference == pytest.approx(want)


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.1, 0.3, 0.0, "holds"),
        (0.1, 0.3, 0.2, "inconclusive"),
        (0.1, 0.3, 0.4, "does not hold"),
        (-0.1, 0.3, 0.0, "inconclusive"),
        (-0.1, 0.3, -0.2, "holds"),
        (-0.3, -0.1, 0.0, "does not hold"),
    ],
)
def test_verdict(low, high, margin, expected):
    interval = PairedInterval((low + high) / 2, low, high, 0.5, 10, 1, 0.1)
    assert verdict(interval, margin) == expected


def test_exact_binomial_interval_has_the_published_values():
    assert exact_binomial_interval(0, 10) == pytest.approx((0.0, 0.30850), abs=1e-5)
    assert exact_binomial_interval(10, 10) == pytest.approx((0.69150, 1.0), abs=1e-5)
    assert exact_binomial_interval(8, 10) == pytest.approx((0.44390, 0.97479), abs=1e-5)
    assert exact_binomial_interval(50, 100) == pytest.approx((0.39832, 0.60168), abs=1e-5)
    assert exact_binomial_interval(0, 0) == (0.0, 1.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_exact_binomial_interval_holds_the_rate_and_mirrors(wins, losses, confidence):
    n = wins + losses
    low, high = exact_binomial_interval(wins, n, confidence)
    assert 0 <= low <= (wins / n if n else 0.5) <= high <= 1
    assert exact_binomial_interval(losses, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones(3), np.ones(4), "same seeds and images"),
        (np.ones((2, 3)), np.ones(3), "same seeds and images"),
        (np.ones(0), np.ones(0), "cannot be resampled"),
        (np.array([1.0, np.nan]), np.ones(2), "not finite"),
    ],
)
def test_arms_that_do_not_pair_are_refused(a, b, message):
    with pytest.raises(DataError, match=message):
        paired_bootstrap(a, b)


def test_impossible_arguments_are_refused():
    with pytest.raises(DataError, match="5 wins of 4"):
        exact_binomial_interval(5, 4)
    with pytest.raises(DataError, match="confidence"):
        paired_bootstrap(np.ones(2), np.ones(2), confidence=1.0)
    with pytest.raises(DataError, match="BLEU-5"):
        bootstrap_bleu(np.ones((2, 10)), np.ones((2, 10)), n=5)


def test_the_interval_of_a_quotient():
    rng = np.random.default_rng(0)
    b = rng.uniform(0.5, 1.5, (2, 400))
    a = 0.9 * b + rng.normal(0, 0.05, (2, 400))
    found = paired_ratio(a, b)
    assert found.ratio == pytest.approx(0.9, abs=0.01)
    assert found.low < found.ratio < found.high
    assert (found.n, found.n_seeds) == (400, 2)
    # Pairing matters: against other images in another order the same quotient is far less certain.
    assert found.high - found.low < 0.3 * np.subtract(
        *[getattr(paired_ratio(a, b[:, ::-1]), e) for e in ("high", "low")]
    )
    # The quotient's lower end is at 0.9 just where that of the difference to 0.9 b is at 0.
    low = paired_ratio(a[0], b[0]).low
    assert paired_bootstrap(a[0], low * b[0]).low == pytest.approx(0, abs=1e-3)
    with pytest.raises(DataError, match="no quotient"):
        paired_ratio(a, np.zeros_like(b))
