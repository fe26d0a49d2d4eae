"""Distorted copies of photographs: repeatable, all kinds, lazily made."""

import pickle

import numpy as np
import pytest

from jaxiqa.data import load
from jaxiqa.data.synthetic.distorted import distorted

SPLIT = load("builtin", size=(24, 32), train=12, val=4, test=4)["train"]


def test_copies_are_repeatable_and_differ():
    copies = distorted(SPLIT, 5)
    assert len(copies) == len(set(copies.ids)) == 60
    assert copies.mos is None
    assert "mos" not in copies[0]
    again = pickle.loads(pickle.dumps(copies))
    for index in (0, 17, 59):
        np.testing.assert_array_equal(copies.read(index), again.read(index))
        assert copies.read(index).dtype == np.uint8
    pixels = {copies.read(index).tobytes() for index in range(60)}
    assert len(pixels) > 50


def test_one_in_seven_is_undistorted_and_the_others_are_not():
    copies = distorted(SPLIT, 30)
    same = [bool((copies.read(i) == SPLIT.read(i // 30)).all()) for i in range(len(copies))]
    assert 0.08 < np.mean(same) < 0.22
    distances = [np.abs(copies.read(i).astype(float) - SPLIT.read(i // 30)).mean() for i in range(len(copies))]
    assert np.quantile(distances, 0.9) > 10


def test_more_copies_are_needed():
    with pytest.raises(ValueError, match="distorted"):
        distorted(SPLIT, 0)
