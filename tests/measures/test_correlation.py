import json

import numpy as np
import pytest

from jaxiqa.measures.correlation import krocc, plcc, srocc


def test_correlations_with_ties_equal_the_reference(shared):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "02_correlation.npz")
    cases = json.loads((folder / "02_correlation.json").read_text())["expected_correlations"]
    checked = 0
    for name, expected in cases.items():
        x, y = arrays[f"corr_{name}__x"], arrays[f"corr_{name}__y"]
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            with pytest.raises(ValueError, match="undefined"):
                srocc(x, y)
            continue
        for function, key in ((srocc, "SROCC"), (plcc, "PLCC"), (krocc, "KROCC_tau_b")):
            assert function(x, y) == pytest.approx(expected[key], rel=0, abs=1e-9)
        checked += 1
    assert checked


def test_ranks_with_ties_by_hand():
    x, y = np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    ranks = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    assert srocc(x, y) == pytest.approx(ranks)
    assert krocc(x, y) == pytest.approx(5 / np.sqrt(5 * 6))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [([1.0, 1.0], [1.0, 2.0], "undefined"), ([1.0], [1.0], "length"), ([1.0, np.nan], [1.0, 2.0], "index 1")],
)
def test_undefined_correlations_are_errors(x, y, message):
    for function in (srocc, plcc, krocc):
        with pytest.raises(ValueError, match=message):
            function(np.array(x), np.array(y))
