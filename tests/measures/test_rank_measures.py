"""The order of a set after an attack: the worst of an ensemble, and differences of correlations by the bootstrap."""

import numpy as np
import pytest
import scipy.stats

from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.ranks import COMBINED, bootstrap_difference, combined, worst_srocc
from jaxiqa.measures.robustness import deviation_gain

RANDOM = np.random.default_rng(0)
ORDER = RANDOM.normal(size=41)


def noisy(deviation, seed=1):
    return 3 * ORDER + deviation * np.random.default_rng(seed).normal(size=len(ORDER))


def test_the_worst_attack_is_found_and_named():
    attacked = {"weak": noisy(1.0), "strong": -noisy(0.1), "middle": noisy(9.0)}
    value, name = worst_srocc(attacked, ORDER)
    assert (value, name) == (srocc(attacked["strong"], ORDER), "strong")


def test_attacks_that_each_move_half_of_the_images_are_combined():
    """Neither turns the order round alone; the best of both for each image does."""
    low = np.median(ORDER) >= ORDER
    attacked = {"raise": np.where(low, ORDER + 1, ORDER), "lower": np.where(low, ORDER, ORDER - 1)}
    value, name = worst_srocc(attacked, ORDER)
    both = np.where(low, ORDER + 1, ORDER - 1)
    assert (value, name) == (srocc(both, ORDER), COMBINED)
    assert value < min(srocc(scores, ORDER) for scores in attacked.values())
    np.testing.assert_array_equal(combined(attacked, ORDER), both)


def test_one_attack_is_its_own_worst():
    scores = noisy(2.0)
    assert worst_srocc({"only": scores}, ORDER)[0] == srocc(scores, ORDER)
    with pytest.raises(ValueError, match="attacked is empty"):
        worst_srocc({}, ORDER)


@pytest.mark.slow
def test_the_bootstrap_equals_scipys():
    ours, theirs = noisy(1.0), noisy(4.0, seed=2)

    def difference(a, b, order):
        return scipy.stats.spearmanr(a, order).statistic - scipy.stats.spearmanr(b, order).statistic

    options = {"paired": True, "vectorized": False, "method": "percentile", "n_resamples": 1000}
    generator = np.random.default_rng(3)
    expected = scipy.stats.bootstrap((ours, theirs, ORDER), difference, random_state=generator, **options)
    found = bootstrap_difference(ours, theirs, ORDER, draws=20_000)
    assert found[0] == pytest.approx(difference(ours, theirs, ORDER))
    interval = expected.confidence_interval
    np.testing.assert_allclose(found[1:], (interval.low, interval.high), atol=0.03)
    assert found[1] > 0  # less noise is better
    assert bootstrap_difference(theirs, ours, ORDER, draws=20_000) == pytest.approx((-found[0], -found[2], -found[1]))


def test_the_interval_covers_the_true_difference():
    """Both models have the same noise, so the true difference is 0; 95 of 100 intervals shall have it."""
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        order = random.normal(size=60)
        ours, theirs = (order + random.normal(size=60) for _ in range(2))
        _, low, high = bootstrap_difference(ours, theirs, order, draws=400, seed=seed)
        covered += low <= 0 <= high
    assert scipy.stats.binom.ppf(0.001, 100, 0.95) <= covered


def test_draws_without_a_correlation_are_drawn_again():
    order = np.array([0.0, 1.0, 2.0])
    difference, low, high = bootstrap_difference(order, order[::-1], order, draws=200)
    assert (difference, low, high) == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="draws=0"):
        bootstrap_difference(order, order, order, draws=0)
    with pytest.raises(ValueError, match="all equal"):
        bootstrap_difference(np.ones(3), order, order)


def test_a_smaller_range_does_not_lower_the_gain_in_deviations():
    clean, attacked = noisy(1.0), noisy(1.0) + 2
    small = deviation_gain(0.1 * clean + 40, 0.1 * attacked + 40)
    np.testing.assert_allclose(small, deviation_gain(clean, attacked))
    np.testing.assert_allclose(small, 2 / np.std(clean, ddof=1))
    with pytest.raises(ValueError, match="at least two and differ"):
        deviation_gain(np.ones(4), np.ones(4))
