"""Folds: every image is a test image once, and no image of a fold is in two parts."""

from dataclasses import replace

import numpy as np
import pytest

from jaxiqa.data import load
from jaxiqa.data.folds import fold


def splits(train=20, val=3, test=4):
    return load("builtin", size=(16, 20), train=train, val=val, test=test)


@pytest.mark.parametrize(("folds", "count"), [(2, 27), (5, 27), (27, 27)])
def test_the_test_parts_are_disjoint_and_contain_everything(folds, count):
    found = [fold(splits(), folds, number) for number in range(folds)]
    tests = [name for parts in found for name in parts["test"].ids]
    assert len(tests) == len(set(tests)) == count
    for parts in found:
        names = [name for part in parts.values() for name in part.ids]
        assert len(names) == len(set(names)) == count
        assert abs(len(parts["val"]) - (count - len(parts["test"])) / 8) <= 1
    sizes = [len(parts["test"]) for parts in found]
    assert max(sizes) - min(sizes) <= 1


def test_pixels_scores_and_names_stay_together():
    given = splits()
    known = {part.ids[i]: (part.read(i), part.mos[i]) for part in given.values() for i in range(len(part))}
    for part in fold(given, 3, 1).values():
        for index, name in enumerate(part.ids):
            pixels, mos = known[name]
            np.testing.assert_array_equal(part.read(index), pixels)
            assert part.mos[index] == mos


def test_the_order_of_the_splits_does_not_matter():
    given = splits()
    turned = dict(reversed(given.items()))
    assert fold(given, 4, 2)["test"].ids == fold(turned, 4, 2)["test"].ids


@pytest.mark.parametrize(
    ("folds", "number", "message"),
    [(1, 0, "folds=1"), (5, 5, "fold=5 of folds=5 does not exist"), (28, 0, "folds=28 does not exist; there are 27")],
)
def test_numbers_out_of_range_are_refused(folds, number, message):
    with pytest.raises(ValueError, match=message):
        fold(splits(), folds, number)


def test_a_fold_without_their_number_is_refused():
    with pytest.raises(ValueError, match="fold=1 has no effect without folds"):
        load("builtin", size=(16, 16), train=10, val=2, test=2, fold=1)


def test_images_without_scores_or_with_one_name_are_refused():
    given = splits()
    with pytest.raises(ValueError, match="folds need scores"):
        fold({**given, "val": replace(given["val"], mos=None)}, 2, 0)
    with pytest.raises(ValueError, match="3 occur in several splits"):
        fold({**given, "again": given["val"]}, 2, 0)


def test_load_takes_folds():
    whole = load("builtin", size=(16, 16), train=10, val=2, test=2, folds=7, fold=6, limit=1)
    assert {part: len(split) for part, split in whole.items()} == {"train": 1, "val": 1, "test": 1}
