import logging

import numpy as np
import pytest
from scipy import ndimage

from jaxiqa.data import Split, load, resized, select_subset
from jaxiqa.data.subset import colourfulness, shares, spatial_information


def kinds(counts, *, scored=True, seed=0):
    """Images of clearly different kinds: flat grey, grey noise, saturated colours; the kind is in the name."""
    random = np.random.default_rng(seed)
    images, names = [], []
    for kind, count in enumerate(counts):
        for i in range(count):
            if kind == 0:
                pixels = np.full((14, 18, 3), random.integers(90, 110))
            elif kind == 1:
                pixels = np.repeat(random.integers(0, 256, (14, 18, 1)), 3, axis=2)
            else:
                pixels = np.stack([np.full((14, 18), v) for v in random.integers((200, 0, 0), (256, 30, 30))], -1)
            images.append(pixels.astype(np.uint8))
            names.append(f"{kind}-{i}")
    order = random.permutation(len(names))
    images, names = [images[i] for i in order], tuple(names[i] for i in order)
    mos = np.array([20.0 + 30 * int(name[0]) for name in names], np.float32) if scored else None
    return Split("made/test", names, mos, None, images.__getitem__)


@pytest.mark.parametrize("scored", [True, False])
def test_each_cluster_gives_the_same_number_and_the_order_is_kept(scored):
    split = kinds((9, 14, 7), scored=scored)
    subset = select_subset(split, 12, clusters=3)
    assert sorted(image[0] for image in subset.ids) == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    places = [split.ids.index(image) for image in subset.ids]
    assert places == sorted(set(places))
    np.testing.assert_array_equal(subset.read(3), split.read(places[3]))
    assert scored is False or subset.mos.tolist() == [split.mos[place] for place in places]


def test_the_subset_depends_on_the_seed_only():
    split = kinds((9, 14, 7))
    first, again, other = (select_subset(split, 9, clusters=3, seed=seed).ids for seed in (0, 0, 1))
    assert first == again != other


def test_other_clusters_replace_the_missing_images_of_a_small_one(caplog):
    split = kinds((10, 2, 10))
    with caplog.at_level(logging.WARNING):
        subset = select_subset(split, 12, clusters=3)
    assert sorted(image[0] for image in subset.ids) == ["0"] * 5 + ["1"] * 2 + ["2"] * 5
    assert "some have fewer than 4" in caplog.text
    assert shares([1, 2, 30], 12) == [1, 2, 9]
    assert len(select_subset(split, 22, clusters=11)) == 22


def test_clusters_can_be_made_from_human_scores_alone():
    split = load("builtin", size=(16, 20), train=1, val=1, test=30)["test"]
    scores = np.repeat([0.0, 1e4], 15).astype(np.float32)
    grey = Split("x/test", split.ids, scores, None, lambda index: np.full((9, 9, 3), 90, np.uint8))
    subset = select_subset(grey, 8, clusters=2)
    assert sorted(subset.mos.tolist()) == [0.0] * 4 + [1e4] * 4


def test_features_by_hand():
    half = np.zeros((10, 12, 3), np.uint8)
    half[:, 6:] = 100
    # The Sobel magnitude is 4 · 100 in the two columns at the edge, elsewhere 0: mean 400/6, variance 400² (1/6)(5/6).
    assert spatial_information(half) == pytest.approx(400 * np.sqrt(5) / 6)
    assert spatial_information(half) == spatial_information(half.transpose(1, 0, 2))
    luma = half.astype(float) @ (0.299, 0.587, 0.114)
    gradient = np.hypot(ndimage.sobel(luma, 0, mode="nearest"), ndimage.sobel(luma, 1, mode="nearest"))
    assert spatial_information(half) == pytest.approx(gradient.std())
    # rg = 200, yb = 100 everywhere: no deviation, means 200 and 100.
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    assert colourfulness(red) == pytest.approx(0.3 * np.hypot(200, 100))
    red[:2, ..., 0] = 0  # rg is 0 or 200, yb 0 or 100
    assert colourfulness(red) == pytest.approx(np.hypot(100, 50) + 0.3 * np.hypot(100, 50))


@pytest.mark.parametrize(
    ("count", "clusters", "message"),
    [(10, 3, "not a multiple"), (33, 3, "count=33"), (0, 3, "count=0"), (4, 0, "clusters=0")],
)
def test_bad_options_are_refused(count, clusters, message):
    with pytest.raises(ValueError, match=message):
        select_subset(kinds((9, 14, 7)), count, clusters=clusters)


def test_resized_images_have_the_requested_size():
    split = kinds((2, 2, 2))
    assert resized(split, None) is split
    small = resized(split, (7, 9))
    assert small[1]["image"].shape == (7, 9, 3)
    assert small.ids == split.ids
