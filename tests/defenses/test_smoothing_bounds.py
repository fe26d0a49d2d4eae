"""The mathematics of certificates, against the committed results, SciPy's exact tests and simulation."""

import json
import math

import numpy as np
import pytest
from scipy import special, stats

from jaxiqa.defenses.smoothing.bounds import (
    clopper_pearson,
    clopper_pearson_upper,
    least,
    lower_rank,
    median_ranks,
    radius,
    refuse_few,
    stopping_schedule,
    upper_rank,
)
from jaxiqa.defenses.smoothing.class_certificate import class_edges, classify


@pytest.fixture(scope="module")
def oracle(shared):
    folder = shared / "oracles" / "public"
    return np.load(folder / "06_certified.npz"), json.loads((folder / "06_certified.json").read_text())


def test_bounds_and_radii_are_those_of_the_reference(oracle):
    arrays, _ = oracle
    lower = clopper_pearson(np.arange(1001), 1000, 0.001)
    np.testing.assert_allclose(lower, arrays["full_p_low_n1000_alpha001"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(radius(lower, 0.12), arrays["full_radius_n1000_sigma012"], rtol=0, atol=1e-8)
    for n, successes, alpha, sigma, bound, length, abstains in arrays["synthetic"]:
        found = clopper_pearson(int(successes), int(n), alpha)
        np.testing.assert_allclose(found, bound, rtol=0, atol=1e-9)
        np.testing.assert_allclose(radius(found, sigma), length, rtol=0, atol=1e-8)
        assert (found < 0.5) == abstains


def test_published_radii_follow_from_their_counts(oracle):
    arrays, _ = oracle
    kept = arrays["published_count"] >= 0
    found = radius(clopper_pearson(arrays["published_count"][kept], 1000, 0.001), 0.12)
    np.testing.assert_allclose(found, arrays["published_radius"][kept], rtol=0, atol=1e-8)


def test_order_statistics_are_those_of_the_reference(oracle):
    arrays, facts = oracle
    for number, setting in enumerate(facts["median_settings"]):
        options = setting["n"], setting["eps"], setting["sigma"], 1 - setting["confidence"]
        ordered = np.sort(arrays[f"median_samples_{number}"])
        lower, upper = median_ranks(*options)
        assert (lower, upper) == (setting["q_l"], setting["q_u"])
        assert ordered[lower - 1] == setting["lower_1based_ascending"]
        assert ordered[upper - 1] == setting["upper_1based_ascending"]
        lower, upper = median_ranks(*options, "benchmark")
        assert ordered[lower - 1] == setting["code_lower_desc0_index_q_u"]
        assert ordered[upper - 1] == setting["code_upper_desc0_index_q_l"]


@pytest.mark.parametrize("metric", ["koncept", "maniqa"])
def test_classes_are_those_of_the_reference(oracle, metric):
    arrays, facts = oracle
    edges = class_edges((float(facts["bins"][metric]["low"]), float(facts["bins"][metric]["high"])), 12)
    np.testing.assert_array_equal(edges, arrays[f"bins_{metric}_edges_accumulated"])
    np.testing.assert_array_equal(
        classify(arrays[f"bins_{metric}_scores"], edges), arrays[f"bins_{metric}_class_float64"]
    )
    single = arrays[f"bins_{metric}_scores_f32"].astype(np.float64)
    np.testing.assert_array_equal(classify(single, edges), arrays[f"bins_{metric}_class_f32"])


@pytest.mark.parametrize("classes", [3, 4, 7, 101])
def test_any_number_of_classes(classes):
    edges = class_edges((-2.0, 5.0), classes)
    found = classify(np.concatenate([[-100.0], np.linspace(-2.0, 5.0, 10_001), [100.0]]), edges)
    assert set(found.tolist()) == set(range(classes))
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(classify(edges, edges), np.arange(classes - 1))  # an edge is part of the class below
    np.testing.assert_array_equal(classify(np.nextafter(edges, np.inf), edges), np.arange(1, classes))


@pytest.mark.parametrize("options", [((1.0, 0.0), 12), ((0.0, math.nan), 12), ((0.0, 1.0), 2)])
def test_bad_classes_are_refused(options):
    with pytest.raises(ValueError, match=r"score_range|classes"):
        class_edges(*options)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("alpha", [1e-9, 0.001, 0.3, 0.7])
def test_the_binomial_test_inverts_the_bound(n, alpha):
    """At its bound a probability is just rejected: P(Bin(n, p) >= k) = alpha. k = 0 and k = n have a closed form."""
    k = np.arange(n + 1)
    lower, upper = clopper_pearson(k, n, alpha), clopper_pearson_upper(k, n, alpha)
    assert lower[0] == 0
    assert upper[n] == 1
    np.testing.assert_allclose(lower[n], alpha ** (1 / n), rtol=1e-12)
    np.testing.assert_allclose(1 - upper[0], alpha ** (1 / n), rtol=0, atol=1e-15)
    np.testing.assert_allclose(stats.binom.sf(k[1:] - 1, n, lower[1:]), alpha, rtol=1e-9)
    np.testing.assert_allclose(stats.binom.cdf(k[:-1], n, upper[:-1]), alpha, rtol=1e-6)


def test_the_radius_is_zero_at_a_probability_of_a_half():
    below, above = np.nextafter(0.5, 0), np.nextafter(0.5, 1)
    np.testing.assert_array_equal(radius(np.array([0.0, below, 0.5]), 0.12), 0)
    assert radius(np.array(above), 0.12) > 0
    np.testing.assert_allclose(radius(np.array(special.ndtr(1.7)), 0.25), 0.25 * 1.7, rtol=1e-12)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.66, 0.999])
@pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.6])
@pytest.mark.parametrize("n", [1, 9, 200])
def test_ranks_equal_those_of_an_exhaustive_search(n, p, alpha):
    q = np.arange(1, n + 1)
    right = q[(q >= math.ceil(p * n)) & (stats.binom.cdf(q - 1, n, p) > 1 - alpha)]
    assert upper_rank(n, p, alpha) == (right[0] if len(right) else n + 1)
    right = q[(q <= math.floor(p * n)) & (stats.binom.sf(q - 1, n, p) > 1 - alpha)]
    assert lower_rank(n, p, alpha) == (right[-1] if len(right) else 0)


def test_too_few_samples_are_refused_with_the_least_number():
    for alpha in (0.001, 0.25, 0.6):
        enough = math.floor(math.log2(1 / alpha)) + 1
        assert least(lambda n: alpha ** (1 / n) > 0.5) == enough  # noqa: B023
    with pytest.raises(ValueError, match=r"fewer than n=10$"):
        refuse_few(9, lambda n: n >= 10, "no radius")
    with pytest.raises(ValueError, match="any n"):
        refuse_few(9, lambda n: False, "no radius")
    refuse_few(10, lambda n: n >= 10, "no radius")


def test_the_looks_share_alpha_and_end_with_all_samples():
    for n in (1, 2, 5, 16, 1000):
        plan = stopping_schedule(n, 0.01, early=True)
        sizes, shares = zip(*plan, strict=True)
        assert sizes[-1] == n
        assert list(sizes) == sorted(set(sizes))
        np.testing.assert_allclose(sum(shares), 0.01)


@pytest.mark.parametrize("true", [0.55, 0.97])
def test_early_stopping_keeps_the_coverage(true):
    """For any stopping rule, the best bound of all looks exceeds the truth with probability at most alpha.

    The test uses the worst rule: stop when a bound is wrong. Spending all of alpha at every look would fail it.
    """
    alpha, runs, n = 0.05, 40_000, 320
    hits = np.random.default_rng(7).random((runs, n)) < true

    def failures(plan):
        best = np.zeros(runs)
        for size, share in plan:
            best = np.maximum(best, clopper_pearson(hits[:, :size].sum(1), size, share))
        return (best > true).mean()

    assert failures(stopping_schedule(n, alpha, early=True)) <= alpha
    # Four standard deviations above alpha: looks without a correction of alpha would exceed it.
    assert failures([(size, alpha) for size, _ in stopping_schedule(n, alpha, early=True)]) > alpha + 4 * math.sqrt(
        alpha * (1 - alpha) / runs
    )
