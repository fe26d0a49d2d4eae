"""The table and the plot of what attacks leave of the order, against numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from jaxiqa.reports.attacks.order import order_plot, order_tables, summarise_order
from jaxiqa.results.rows import CLEAN, RankRow

MOS = np.array([10.0, 30.0, 50.0, 70.0, 90.0])
EPSILONS = (0.5 / 255, 2 / 255)
AWAY = np.array([1, 1, 1, -1, -1])
STRENGTH = {("base", "PGD"): 40.0, ("base", "APGD"): 60.0, ("ours", "PGD"): 5.0, ("ours", "APGD"): 14.0}


def scores(model, attack, epsilon, seed):
    clean = MOS + np.array([0, 3, -2, 1, 0]) * (1 + seed)
    return clean + 255 / 2 * epsilon * AWAY * STRENGTH.get((model, attack), 0.0)


def rows(models=("base", "ours"), seeds=(0,), slope=0.5):
    return [
        RankRow(f"{i}.png", model, seed, attack, epsilon, MOS[i], found[i], slope if attack == CLEAN else 0.0, 0.1)
        for model in models
        for seed in seeds
        for epsilon in (0.0, *EPSILONS)
        for attack in ([CLEAN] if epsilon == 0 else ["PGD", "APGD"])
        for found in [scores(model, attack, epsilon, seed)]
        for i in range(len(MOS))
    ]


def ends(models=("base", "ours"), seeds=(0,)):
    return {(model, seed): (0.0, 100.0) for model in models for seed in seeds}


def test_a_baseline_with_equal_scores_hides_no_other_model():
    flat = [row if row.model == "ours" or not row.epsilon else replace(row, attacked=5.0) for row in rows()]
    order, whole = (summarise_order(some, ["base", "ours"], ends()) for some in (flat, rows()))
    for epsilon in EPSILONS:
        assert order.left["ours", epsilon] == replace(whole.left["ours", epsilon], difference=None)
        assert ("base", epsilon) not in order.left
    assert [what.partition(":")[0] for what in order.missing] == ["base at ε = 0.5/255", "base at ε = 2/255"]


def test_a_baseline_without_a_clean_row_is_left_out():
    lost = [row for row in rows() if (row.model, row.attack, row.image) != ("base", CLEAN, "2.png")]
    order = summarise_order(lost, ["base", "ours"], ends())
    assert {model for model, _ in order.left} == {"ours"}
    assert order.left["ours", EPSILONS[0]].difference is None


def test_the_worst_attack_of_each_strength_counts():
    order = summarise_order(rows(), ["base", "ours"], ends())
    assert (order.models, order.epsilons, order.images) == (("base", "ours"), EPSILONS, 5)
    for model in ("base", "ours"):
        for epsilon in EPSILONS:
            expected = scipy.stats.spearmanr(scores(model, "APGD", epsilon, 0), MOS).statistic
            assert order.left[model, epsilon].srocc == pytest.approx((expected,))
            clean = scores(model, CLEAN, 0.0, 0)
            moved = 255 / 2 * epsilon * STRENGTH[model, "APGD"] / clean.std(ddof=1)
            assert order.left[model, epsilon].gain == pytest.approx((moved,))
    assert order.left["base", EPSILONS[1]].attacks == ("APGD",)
    assert order.left["base", EPSILONS[1]].srocc[0] < 0 < order.left["ours", EPSILONS[1]].srocc[0]
    assert order.left["base", 0.0].srocc == pytest.approx((1.0,))
    assert order.slopes == {"base": {0: 0.005}, "ours": {0: 0.005}}


def test_an_attack_that_helps_the_order_leaves_the_clean_one():
    helped = [row for row in rows() if row.attack == CLEAN or row.epsilon == EPSILONS[0]]
    helped = [RankRow(**{**vars(row), "attacked": row.mos if row.epsilon else 100 - row.mos}) for row in helped]
    left = summarise_order(helped, ["base", "ours"], ends()).left["base", EPSILONS[0]]
    assert left.srocc == pytest.approx((-1.0,))
    assert left.attacks == (CLEAN,)


def test_the_difference_is_that_of_the_same_seeds_and_images():
    order = summarise_order(rows(seeds=(0, 1)), ["base", "ours"], ends(seeds=(0, 1)))
    for epsilon in (0.0, *EPSILONS):
        assert order.left["base", epsilon].difference is None
        ours, theirs = (np.mean(order.left[model, epsilon].srocc) for model in ("ours", "base"))
        found, low, high = order.left["ours", epsilon].difference
        assert found == pytest.approx(ours - theirs)
        assert low <= found <= high
    assert order.left["ours", 0.0].difference == pytest.approx((0, 0, 0))


def test_a_strength_without_all_images_is_a_dash():
    incomplete = [row for row in rows() if (row.model, row.epsilon, row.image) != ("ours", EPSILONS[1], "3.png")]
    order = summarise_order(incomplete, ["base", "ours"], ends())
    assert ("ours", EPSILONS[1]) not in order.left
    assert ("ours", EPSILONS[0]) in order.left
    short, long = order_tables(order)
    assert short.rows[1][3] == ("–", None)
    assert short.rows[0][3][1] is not None
    assert len(long.rows) == 5
    assert summarise_order([], ["base"], {}) is None


def test_tables_and_plot_show_every_number():
    order = summarise_order(rows(seeds=(0, 1)), ["base", "ours"], ends(seeds=(0, 1)))
    short, long = order_tables(order)
    assert short.header == ["model", "SROCC", "@ 0.5/255", "@ 2/255", "slope"]
    assert [row[0] for row in short.rows] == ["base", "ours"]
    assert short.rows[0][1] == ("1.000 ± 0.000", pytest.approx(1.0))
    assert short.rows[0][4] == ("0.005 ± 0.000", pytest.approx(0.005))
    assert any("Below 0" in note for note in short.notes)
    assert {row[0] for row in long.rows} == {"0/255", "0.5/255", "2/255"}
    assert long.rows[-1][2] == "APGD"
    assert "to" in long.rows[-1][4][0]
    assert "\n".join(short.markdown()).count("|") > 10
    assert order_plot(order).png[1:4] == b"PNG"


def test_equal_scores_are_a_dash_with_the_reason():
    """A metric that an attack saturates must not cost the report of the others."""
    flat = [RankRow(**{**vars(row), "attacked": 5.0}) if row.model == "ours" else row for row in rows()]
    order = summarise_order(flat, ["base", "ours"], ends())
    assert {model for model, _ in order.left} == {"base"}
    assert len(order.missing) == 3
    assert any("ours at ε = 2/255" in note and "all equal" in note for note in order_tables(order)[0].notes)
