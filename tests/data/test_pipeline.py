import hashlib
import itertools
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jaxiqa.data import load
from jaxiqa.data.pipeline import View, image_fetch, scoring_batches, training_batches


def fetch(index, view):
    return {
        "index": np.int64(index),
        "mirrored": np.bool_(view.mirrored),
        "inverted": np.bool_(view.inverted),
        "places": np.array(view.places),
    }


def stream(start, steps, **options):
    options = {"batch_size": 4, "seed": 3, "flip": True, **options}
    return list(itertools.islice(training_batches(fetch, 10, start=start, **options), steps))


def same(a, b):
    return all((x[key] == y[key]).all() for x, y in zip(a, b, strict=True) for key in x)


@pytest.mark.parametrize("start", [0, 1, 7, 13])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_stream_that_starts_later_gives_the_same_batches(start, threads):
    assert same(stream(0, 20)[start:], stream(start, 20 - start, threads=threads))


@pytest.mark.slow
def test_a_new_process_gives_the_same_batches():
    code = """
import hashlib, itertools
import numpy as np
from jaxiqa.data.pipeline import training_batches
def fetch(index, view):
    return {
        "index": np.int64(index),
        "mirrored": np.bool_(view.mirrored),
        "inverted": np.bool_(view.inverted),
        "places": np.array(view.places),
    }
batches = training_batches(fetch, 10, batch_size=4, seed=3, flip=True, start=9, threads=4)
print(hashlib.sha256(b"".join(v.tobytes() for b in itertools.islice(batches, 8) for v in b.values())).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    here = b"".join(value.tobytes() for batch in stream(0, 17)[9:] for value in batch.values())
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("count", [2, 4])
def test_shares_of_processes_are_the_parts_of_the_whole_batches(count, start):
    whole = stream(start, 9, crops=3)
    shares = [stream(start, 9, crops=3, share=(index, count)) for index in range(count)]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} for parts in zip(*shares, strict=True)
    ]
    assert len(joined[0]["index"]) == 4
    assert same(joined, whole)


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch_size=4 cannot be divided among 3 processes"):
        stream(0, 1, share=(0, 3))


def test_a_stream_can_start_far_in():
    (batch,) = stream(10**6, 1)
    assert batch["index"].shape == (4,)


def test_a_batch_larger_than_the_data_spans_epochs():
    (batch,) = stream(0, 1, batch_size=30)
    assert set(Counter(batch["index"].tolist()).values()) == {3}


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"start": -1}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        stream(**{"start": 0, "steps": 1, **options})


def test_every_example_is_seen_equally_often_in_a_new_order_each_epoch():
    indices = np.concatenate([batch["index"] for batch in stream(0, 25)])
    assert set(Counter(indices.tolist()).values()) == {10}
    epochs = indices.reshape(10, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_the_seed_decides_order_and_mirroring():
    assert not same(stream(0, 5), stream(0, 5, seed=4))
    mirrored = np.concatenate([batch["mirrored"] for batch in stream(0, 60)])
    assert 0.35 < mirrored.mean() < 0.65
    assert not np.concatenate([batch["mirrored"] for batch in stream(0, 5, flip=False)]).any()


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_images_are_resized_mirrored_and_in_unit_range(cache_bytes):
    split = load("builtin", size=(20, 28), train=4, val=4, test=4)["train"]
    get = image_fetch(split, (10, 14), cache_bytes=cache_bytes)
    plain, mirrored = get(1, View()), get(1, View(True))
    assert plain["image"].shape == (10, 14, 3)
    assert plain["image"].dtype == np.float32
    assert 0 <= plain["image"].min() < plain["image"].max() <= 1
    np.testing.assert_array_equal(plain["image"][:, ::-1], mirrored["image"])
    assert plain["mos"] == split.mos[1]


def test_images_that_fit_in_memory_are_read_once():
    split = load("builtin", size=(20, 28), train=4, val=4, test=4)["train"]
    reads = []

    def read(index):
        reads.append(index)
        return split.read(index)

    bytes_needed = 4 * 20 * 28 * 3
    for cache_bytes, expected in ((bytes_needed, [2]), (bytes_needed - 1, [2, 2])):
        reads.clear()
        get = image_fetch(replace(split, read=read), None, cache_bytes=cache_bytes)
        get(2, View()), get(2, View(True))
        assert reads == expected


@pytest.mark.parametrize(("crops", "patches"), [(1, 1), (3, 1), (2, 4)])
def test_every_image_has_its_number_of_crops_at_places_of_their_own(crops, patches):
    batches = stream(0, 10 * crops, batch_size=5, crops=crops, patches=patches)
    half = batches[: 2 * crops]  # one epoch
    assert set(Counter(np.concatenate([batch["index"] for batch in half]).tolist()).values()) == {crops}
    places = np.concatenate([batch["places"] for batch in batches])
    assert places.shape == (50 * crops, patches, 2)
    assert 0 <= places.min() < 0.05
    assert 0.95 < places.max() < 1
    assert len(np.unique(places)) == places.size
    assert not np.concatenate([batch["inverted"] for batch in half]).any()
    assert same(batches[3:], stream(3, 10 * crops - 3, batch_size=5, crops=crops, patches=patches))


def test_both_flips_are_independent_and_the_first_does_not_change():
    both = stream(0, 60, flip="both")
    inverted, mirrored = (np.concatenate([batch[name] for batch in both]) for name in ("inverted", "mirrored"))
    assert 0.35 < inverted.mean() < 0.65
    assert 0.15 < (inverted & mirrored).mean() < 0.35
    assert same([{"index": batch["index"]} for batch in both], [{"index": b["index"]} for b in stream(0, 60)])


@pytest.mark.parametrize("size", [(20, 28), (9, 14)])
def test_crops_are_cut_from_the_shown_image(size):
    split = load("builtin", size=(20, 28), train=4, val=4, test=4)["train"]
    get, whole = (image_fetch(split, size, crop=crop) for crop in ((7, 9), None))
    last = 1 - 1e-9
    view = View(mirrored=True, inverted=True, places=((0.0, 0.0), (last, last), (0.5, 0.0)))
    shown = whole(2, view._replace(places=()))["image"]
    np.testing.assert_array_equal(shown, whole(2, View())["image"][::-1, ::-1])
    h, w = size
    middle = (h - 6) // 2
    patches = [shown[:7, :9], shown[h - 7 :, w - 9 :], shown[middle : middle + 7, :9]]
    np.testing.assert_array_equal(get(2, view)["image"], np.concatenate(patches))
    np.testing.assert_array_equal(get(2, View())["image"], whole(2, View())["image"])


def test_a_crop_larger_than_the_image_is_an_error_that_names_it():
    split = load("builtin", size=(20, 28), train=4, val=4, test=4)["train"]
    get = image_fetch(split, None, crop=(21, 9))
    with pytest.raises(ValueError, match=r"crop=21x9 is larger than .*\(20x28\); choose a smaller crop"):
        get(0, View(places=((0.0, 0.0),)))


def test_training_needs_scores():
    split = load("builtin", size=(20, 28), train=4, val=4, test=4)["train"]
    with pytest.raises(ValueError, match="builtin/train has no scores"):
        image_fetch(replace(split, mos=None), None)


def test_scoring_keeps_the_order_and_counts_images_without_padding():
    split = load("builtin", size=(20, 28), train=7, val=4, test=4)["train"]
    batches = list(scoring_batches(split, 3, size=None))
    assert [valid for _, valid, _ in batches] == [3, 3, 1]
    assert {images.shape for images, _, _ in batches} == {(3, 20, 28, 3)}
    assert tuple(image for _, _, ids in batches for image in ids) == split.ids
    np.testing.assert_allclose(batches[2][0][0] * 255, split.read(6))
    assert next(scoring_batches(split, 100, size=None))[0].shape[0] == 7
