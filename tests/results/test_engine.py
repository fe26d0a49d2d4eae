"""Questions to the engine have the answers of plain loops over the rows."""

import itertools

import numpy as np
import pytest

from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import CertificateRow, ResultRow

STRENGTHS = {"PGD": (0.1, 0.2), "UAP": (0.1, 1.0), "stAdv": (None,), "SSAH": ("weak", "strong")}


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    found = []
    for (attack, strengths), image in itertools.product(STRENGTHS.items(), "abcde"):
        for strength in strengths:
            level = strength if isinstance(strength, str) else None
            epsilon = 0.25 if level else None if strength is None else float(strength)
            numbers = random.normal(size=6).tolist()
            found.append(ResultRow(image, "m", 0, attack, epsilon, *numbers, None, 0.1, level))
    return [found[place] for place in random.permutation(len(found))]


@pytest.mark.parametrize(
    "asked",
    [
        STRENGTHS,
        {},
        {"PGD": (0.2,), "SSAH": ("strong",)},
        {"PGD": ("weak",), "SSAH": (0.25,), "stAdv": (0.1, None)},
        {"UAP": (1.0,), "stAdv": (), "other": (0.1,)},
        {"PGD": (0.1, 0.2), "UAP": (0.2, 0.1)},
    ],
)
def test_rows_of_present_strengths(rows, asked):
    expected = [row for row in rows if row.strength in asked.get(row.attack, ())]
    assert Rows.of(rows, ResultRow).present(asked).all() == expected


def test_keys_of_rows(rows):
    table = Rows.of(rows, ResultRow)
    assert table.keys() == {(row.image, row.strength) for row in rows}
    assert table.keys("attack", "seed") == {(row.attack, row.seed, row.image, row.strength) for row in rows}
    assert table.only(attack="other").keys() == set()
    clean = CertificateRow("i", "m", 0, None, None, None, "MS", 0.5, 0.2, None, 0.1, False, 40, 0.1, 1.0)
    assert Rows.of([clean], CertificateRow).keys("attack") == {(None, "i", None)}


@pytest.mark.parametrize("images", ["abcde", "abc", "abcdef"])
def test_finished_strengths_have_every_image(rows, images):
    some = [row for row in rows if (row.attack, row.strength, row.image) != ("PGD", 0.2, "b")]
    some += [row for row in rows if (row.attack, row.strength, row.image) == ("PGD", 0.2, "c")]  # twice
    cells = {(attack, key) for attack, keys in STRENGTHS.items() for key in keys}
    expected = {
        cell for cell in cells if {row.image for row in some if (row.attack, row.strength) == cell} >= set(images)
    }
    assert Rows.of(some, ResultRow).finished(list(images)) == expected


def test_rows_are_sorted_by_a_field_and_keep_their_order(rows):
    order = ["stAdv", "SSAH", "UAP", "PGD"]
    found = Rows.of(rows, ResultRow).sorted_by("attack", order).all()
    assert found == sorted(rows, key=lambda row: order.index(row.attack))
