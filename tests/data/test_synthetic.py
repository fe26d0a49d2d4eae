import numpy as np
import pytest

from jaxiqa.data import load
from jaxiqa.data.synthetic.distortions import DISTORTIONS
from jaxiqa.data.synthetic.scenes import scene
from jaxiqa.data.synthetic.synthesis import distorted_scenes, similarity

SMALL = {"size": (20, 28), "train": 12, "val": 8, "test": 8}


def test_images_depend_on_the_seed():
    first, other = load("builtin", **SMALL), load("builtin", **SMALL, seed=1)
    assert (first["train"].read(3) != other["train"].read(3)).any()
    for again in (distorted_scenes((20, 28), 12, (0, 0)), distorted_scenes((20, 28), 12, (0, 0))):
        np.testing.assert_array_equal(again[0], [first["train"].read(i) for i in range(12)])
        np.testing.assert_array_equal(again[1], first["train"].mos)


def test_no_two_scenes_or_distortions_share_their_random_numbers(monkeypatch):
    """NumPy treats the seeds (seed, number, 0) and (seed, number) as equal. Scenes and distortions once shared them."""
    states, make = [], np.random.default_rng

    def recorded(seed):
        generator = make(seed)
        states.append(str(generator.bit_generator.state))
        return generator

    monkeypatch.setattr(np.random, "default_rng", recorded)
    load("builtin", size=(16, 18), train=40, val=40, test=40, seed=5)
    assert len(states) == 30 * 5
    assert len(set(states)) == len(states)


@pytest.mark.parametrize("size", [(16, 16), [16, 50], (51, 17)])
def test_any_size_can_be_generated(size):
    splits = load("builtin", size=size, train=5, val=1, test=1)
    assert splits["train"].read(4).shape == (*size, 3)
    assert [len(splits[part]) for part in ("train", "val", "test")] == [5, 1, 1]


@pytest.mark.parametrize("options", [{"size": (15, 20)}, {"size": (20, 20, 3)}, {"train": 0}, {"seed": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load("builtin", **options)


def test_cached_arrays_cannot_be_changed():
    split = load("builtin", **SMALL)["train"]
    with pytest.raises(ValueError, match="read-only"):
        split.read(0)[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        split.mos[0] = 0


@pytest.mark.slow
def test_labels_span_the_scale_and_undistorted_images_score_100():
    split = load("builtin", size=(32, 32), train=240, val=1, test=1)["train"]
    pristine = np.array(["pristine" in image for image in split.ids])
    assert 0.005 < pristine.mean() < 0.1
    assert (split.mos[pristine] == 100).all()
    assert split.mos[~pristine].max() < 100
    assert split.mos.min() < 40


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_a_stronger_distortion_has_a_lower_label(kind):
    values = np.zeros((4, 3))
    for number in range(4):
        image = scene(np.random.default_rng(number), (40, 56))
        for column, strength in enumerate((0.1, 0.5, 1.0)):
            damaged = np.clip(DISTORTIONS[kind](image, strength, np.random.default_rng(0)), 0, 1)
            values[number, column] = similarity(image, damaged)
    means = values.mean(0)
    assert means[0] > means[1] > means[2]
