import hashlib
import itertools
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jaxiqa.data import load
from jaxiqa.data.pipeline import image_fetch, scoring_batches, training_batches


def fetch(index, mirrored):
    return {"index": np.int64(index), "mirrored": np.bool_(mirrored)}


def stream(start, steps, **options):
    options = {"batch_size": 4, "seed": 3, "flip": True, **options}
    return list(itertools.islice(training_batches(fetch, 10, start=start, **options), steps))


def same(a, b):
    return all((x[key] == y[key]).all() for x, y in zip(a, b, strict=True) for key in x)


@pytest.mark.parametrize("start", [0, 1, 7, 13])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_stream_that_starts_later_gives_the_same_batches(start, threads):
    assert same(stream(0, 20)[start:], stream(start, 20 - start, threads=threads))


def test_a_new_process_gives_the_same_batches():
    code = """
import hashlib, itertools
import numpy as np
from jaxiqa.data.pipeline import training_batches
fetch = lambda index, mirrored: {"index": np.int64(index), "mirrored": np.bool_(mirrored)}
batches = training_batches(fetch, 10, batch_size=4, seed=3, flip=True, start=9, threads=4)
print(hashlib.sha256(b"".join(v.tobytes() for b in itertools.islice(batches, 8) for v in b.values())).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    here = b"".join(value.tobytes() for batch in stream(0, 17)[9:] for value in batch.values())
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


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
    plain, mirrored = get(1, False), get(1, True)
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
        get(2, False), get(2, True)
        assert reads == expected


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
