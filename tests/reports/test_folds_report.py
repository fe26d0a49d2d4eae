"""The table over folds: its numbers, and what is missing."""

import csv

import numpy as np
import pytest
import scipy.stats

from jaxiqa.measures.robustness import folds_interval95
from jaxiqa.reports import write_folds
from jaxiqa.reports.attacks.folds import Numbers
from jaxiqa.reports.attacks.order import Left, Order
from jaxiqa.reports.attacks.summary import Summary, Value

RANDOM = np.random.default_rng(0)
CLEAN = {"base": RANDOM.uniform(0.6, 0.8, 5), "flat": RANDOM.uniform(0.6, 0.8, 5)}
WORST = {"base": RANDOM.uniform(-0.8, -0.4, 5), "flat": RANDOM.uniform(0.0, 0.3, 5)}
EPSILON = 0.5 / 255


def fold(number, *, order=True):
    cells = {(model, "SROCC"): Value(found[number], 0.0, 1) for model, found in CLEAN.items()}
    cells |= {(model, "AbsGain AUC PGD"): Value(0.1 * number, 0.0, 1) for model in CLEAN}
    summary = Summary(tuple(CLEAN), {"PGD": (2 / 255, 4 / 255)}, cells, (0, 1), 9, 9, "mos", ())
    left = {
        # two seeds around the value
        (model, EPSILON): Left((0, 1), (found[number] - 0.1, found[number] + 0.1), ("a", "b"), (1.0, 2.0), None)
        for model, found in WORST.items()
    }
    slopes = {model: {0: 0.5} for model in CLEAN}
    return Numbers(summary, Order(tuple(CLEAN), (EPSILON,), left, slopes, 9) if order else None)


def cells(table, model):
    row = next(row for row in table.rows if row[0] == model)
    return dict(zip(table.header, row, strict=True))


def test_means_deviations_and_paired_differences(tmp_path):
    means, differences = write_folds(tmp_path, [fold(i) for i in range(5)], title="Five")
    found = cells(means, "flat")
    assert found["SROCC"][1] == pytest.approx(CLEAN["flat"].mean())
    assert found["worst SROCC @ 0.5/255"][1] == pytest.approx(WORST["flat"].mean())
    assert found["worst SROCC @ 0.5/255"][0].endswith(f"± {WORST['flat'].std(ddof=1):.3f}")
    assert found["AbsGain AUC PGD"][1] == pytest.approx(0.2)
    assert found["gain @ 0.5/255"][1] == pytest.approx(1.5)
    assert found["slope"][1] == pytest.approx(0.5)
    assert found["PLCC"] == ("–", None)
    change = WORST["flat"] - WORST["base"]
    low, high = folds_interval95(change)
    assert cells(differences, "flat")["worst SROCC @ 0.5/255"] == (
        f"{change.mean():+.3f} ({low:+.3f} to {high:+.3f})",
        pytest.approx(change.mean()),
    )
    assert [row[0] for row in differences.rows] == ["flat"]
    text = (tmp_path / "folds.md").read_text()
    assert "## Five: 5 folds" in text
    assert "## Against base" in text
    with (tmp_path / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    one = [row for row in rows if (row["fold"], row["model"], row["measure"]) == ("3", "base", "SROCC")]
    assert [float(row["value"]) for row in one] == [CLEAN["base"][3]]


def test_a_number_that_one_fold_lacks_is_a_dash(tmp_path):
    means, differences = write_folds(tmp_path, [fold(0), fold(1), fold(2, order=False)], title="Three")
    assert cells(means, "flat")["worst SROCC @ 0.5/255"] == ("–", None)
    assert cells(differences, "flat")["worst SROCC @ 0.5/255"] == ("–", None)
    assert cells(means, "flat")["SROCC"][1] is not None


@pytest.mark.parametrize("count", [2, 5, 10])
def test_the_interval_is_wider_than_that_of_independent_folds(count):
    values = RANDOM.normal(size=count)
    plain = scipy.stats.t.interval(0.95, count - 1, values.mean(), values.std(ddof=1) / np.sqrt(count))
    low, high = folds_interval95(values)
    assert (high - low) / (plain[1] - plain[0]) == pytest.approx(np.sqrt(1 + count / (count - 1)))


def test_one_fold_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        folds_interval95(np.array([1.0]))
