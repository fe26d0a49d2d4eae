"""Distorted parts of photographs: repeatable, all kinds, lazily made."""

import pickle
from dataclasses import replace

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


def test_half_of_the_copies_are_plain_parts_and_the_others_are_distorted():
    """Parts of a ramp are ramps, which a distortion breaks (except for blur and contrast)."""
    ramp = np.repeat(np.linspace(0, 255, 96)[None, :, None], 64, 0).repeat(3, 2).astype(np.uint8)
    copies = distorted(replace(SPLIT, read=lambda _: ramp), 25)
    smooth = [np.abs(np.diff(copies.read(i).astype(float), 2, axis=1)).max() <= 2 for i in range(len(copies))]
    assert 0.5 < np.mean(smooth) < 0.85


@pytest.mark.parametrize(("size", "shape"), [(None, (64, 96)), ((20, 30), (20, 30)), ((48, 16), (48, 16))])
def test_parts_keep_the_proportions_of_the_size_and_lie_anywhere(size, shape):
    """Red grows downwards and green to the right, so the colours of a part tell its place and its sides."""
    y, x = np.mgrid[:64, :96]
    image = np.stack([2 * y, 2 * x, 0 * x], -1).astype(np.uint8)
    copies = distorted(replace(SPLIT, read=lambda _: image), 20, size=size)
    tops, ratios = [], []
    for i in range(len(copies)):
        part = copies.read(i).astype(float)
        assert part.shape == (*shape, 3)
        if part[..., 2].max() > 0 or np.diff(part[..., 1].mean(0)).min() < 0:
            continue  # distorted
        tops.append(part[0, :, 0].mean())
        ratios.append(np.ptp(part[..., 0].mean(1)) / np.ptp(part[..., 1].mean(0)))
    assert len(tops) > 60
    assert np.ptp(tops) > 30
    assert np.median(ratios) == pytest.approx(shape[0] / shape[1], rel=0.1)


def test_pairs_have_the_part_before_its_distortion():
    copies, pairs = distorted(SPLIT, 5, size=(20, 30)), distorted(SPLIT, 5, size=(20, 30), paired=True)
    moved = 0
    for index in range(len(pairs)):
        assert pairs.read(index).shape == (20, 30, 6)
        np.testing.assert_array_equal(pairs.read(index)[..., :3], copies.read(index))
        moved += (pairs.read(index)[..., 3:] != copies.read(index)).any()
    assert 20 < moved < 40


def test_more_copies_are_needed():
    with pytest.raises(ValueError, match="distorted"):
        distorted(SPLIT, 0)
