import json

import numpy as np
import pytest

from jaxiqa.measures.robustness import (
    abs_gain,
    auc,
    energy,
    interval95,
    magnitude_gain,
    r_score,
    rel_gain,
    wasserstein,
)

CASES = ["std_fgsm", "ifgsm", "madc", "cumulative_uap_COCO_0p8"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("suffix", "part"), [("", "without_NOT"), ("_not", "with_NOT")])
def test_scores_equal_those_of_the_published_raw_data(shared, case, suffix, part):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "01_robustness_scores.npz")
    expected = json.loads((folder / "01_robustness_scores.json").read_text())["expected"][case][part]
    clean, attacked = arrays[f"{case}__clear{suffix}"], arrays[f"{case}__attacked{suffix}"]
    ends = float(clean.min()), float(clean.max())
    for name, values in (
        ("abs_gain", abs_gain(clean, attacked, *ends)),
        ("rel_gain", rel_gain(clean, attacked, *ends)),
        ("R_score", r_score(clean, attacked, *ends)),
    ):
        assert values.mean() == pytest.approx(expected[name], rel=0, abs=1e-9)
        assert interval95(values) == pytest.approx(expected[f"{name}_ci95"], rel=0, abs=1e-9)
    assert wasserstein(clean, attacked, *ends) == pytest.approx(expected["wasserstein"], rel=0, abs=1e-9)
    assert energy(clean, attacked, *ends) == pytest.approx(expected["energy"], rel=0, abs=1e-9)


CLEAN, ATTACKED = np.array([20.0, 40.0, 60.0]), np.array([50.0, 30.0, 90.0])


def test_gains_on_a_shifted_scale_by_hand():
    np.testing.assert_allclose(abs_gain(CLEAN, ATTACKED, 10, 110), [0.3, -0.1, 0.3])
    np.testing.assert_allclose(magnitude_gain(CLEAN, ATTACKED, 10, 110), [0.3, 0.1, 0.3])
    np.testing.assert_allclose(rel_gain(CLEAN, ATTACKED, 10, 110), [0.3 / 1.1, -0.1 / 1.3, 0.3 / 1.5])


def test_r_score_by_hand_in_both_variants():
    benchmark = np.log10([0.9 / 0.300001, 0.7 / 0.100001, 0.5 / 0.300001])
    np.testing.assert_allclose(r_score(CLEAN, ATTACKED, 10, 110), benchmark)
    # β₁ = 0.8, β₀ = 0.1: max(0.8 − s̃_adv, s̃ − 0.1) = 0.4, 0.6, 0.4
    authors = np.log10([0.4 / 0.3, 0.6 / 0.1, 0.4 / 0.3])
    np.testing.assert_allclose(r_score(CLEAN, ATTACKED, 10, 110, variant="authors"), authors)
    np.testing.assert_allclose(r_score(CLEAN, ATTACKED, 0, 1, variant="authors"), authors)


def test_without_a_change_only_the_authors_variant_is_infinite():
    assert r_score(CLEAN, CLEAN, 0, 100).max() < 6
    assert np.isinf(r_score(CLEAN, CLEAN, 0, 100, variant="authors")).any()


def test_the_authors_variant_is_never_nan():
    # One image has both the lowest clean and the highest attacked score: no larger change was possible.
    assert r_score(np.array([0.5]), np.array([0.6]), 0, 1, variant="authors").tolist() == [-np.inf]
    assert r_score(np.array([0.5]), np.array([0.5]), 0, 1, variant="authors").tolist() == [np.inf]


def test_relative_gain_needs_a_nonzero_denominator():
    with pytest.raises(ValueError, match="index 1 must be above -1"):
        rel_gain(np.array([0.0, -1.0]), np.array([1.0, 1.0]), 0, 1)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_an_interval_needs_finite_values(values):
    with pytest.raises(ValueError, match="finite"):
        interval95(np.array(values))


def test_interval_by_hand():
    # t(0.975, 2) = 4.302653, std = 1, n = 3
    assert interval95(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_areas_by_hand():
    epsilons, values = np.array([2, 4, 10]) / 255, np.array([0.1, 0.3, 0.5])
    assert auc(epsilons, values) == pytest.approx((0.2 * 2 + 0.4 * 6) / 8)
    assert auc(epsilons, values, rule="mean") == pytest.approx(0.3)
    assert auc(epsilons, values, rule="trapezoid_2") == pytest.approx(0.6 * 2 / 255)
    assert auc(epsilons, values, rule="trapezoid_8") == pytest.approx(0.6 * 8 / 255)
    assert auc(epsilons[:1], values[:1]) == pytest.approx(0.1)
    assert auc(epsilons[:1], values[:1], rule="trapezoid_2") == 0
    with pytest.raises(ValueError, match="NaN"):
        auc(epsilons, np.array([0.1, np.nan, 0.3]))
    with pytest.raises(ValueError, match="rule='simpson'"):
        auc(epsilons, values, rule="simpson")


@pytest.mark.parametrize("epsilons", [[0.1, 0.1], [0.2, 0.1], [0.1], [0.1, np.inf]])
def test_strengths_must_increase_and_match(epsilons):
    with pytest.raises(ValueError, match="epsilons"):
        auc(np.array(epsilons), np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("clean", "attacked", "ends"),
    [([1.0], [1.0, 2.0], (0, 1)), ([], [], (0, 1)), ([np.nan], [1.0], (0, 1)), ([1.0], [1.0], (1, 1))],
)
def test_bad_input_is_refused(clean, attacked, ends):
    with pytest.raises(ValueError, match=r"scores|range"):
        abs_gain(np.array(clean), np.array(attacked), *ends)
