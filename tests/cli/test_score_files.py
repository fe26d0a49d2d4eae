"""Batches of image files: what waits, what is compiled, what is a fault."""

import math

import jax
import numpy as np
import pytest
from PIL import Image
from quick import every

from jaxiqa import models
from jaxiqa.cli import score_files as batches_of
from jaxiqa.core import compiled
from jaxiqa.data import read_image
from jaxiqa.data.search import find


@pytest.mark.slow
def test_few_images_wait_in_memory(folder, runs, monkeypatch):
    """With room for one waiting image, every image is scored at once; the scores are the same."""
    paths = find([folder]).paths
    model = models.load_run(runs / "native")
    batches = {}
    for waiting, pixels in ((2**29, 2**22), (1, 2**22), (2**29, 2 * 40 * 56)):
        monkeypatch.setattr(batches_of, "WAITING", waiting)
        monkeypatch.setattr(batches_of, "PIXELS", pixels)
        batches[waiting, pixels] = [d for d in batches_of.score_files(model, paths, {}, batch_size=4) if d]
    whole, single, pairs = (
        {path: score for part in parts for path, score in part.items()} for parts in batches.values()
    )
    for other in (single, pairs):
        assert other.keys() == whole.keys()
        np.testing.assert_allclose([other[p] for p in whole], list(whole.values()), rtol=1e-4, atol=1e-5)
    assert [max(map(len, parts)) for parts in batches.values()] == [4, 1, 2]


def test_nan_scores_and_refused_sizes_are_faults(folder, monkeypatch):
    paths = [folder / "same0.png", folder / "other.jpg"]

    def score(pixels):
        if pixels.shape[1] < 44:
            raise ValueError("images is 40x56; both sides must be at least 44 pixels")
        return np.full(len(pixels), np.nan)

    monkeypatch.setattr(batches_of, "_compiled", lambda model: score)
    monkeypatch.setattr(batches_of, "_shrinker", lambda model: None)
    monkeypatch.setattr(batches_of, "_network_pixels", lambda model: math.prod)
    faults = {}
    assert not any(batches_of.score_files(None, paths, faults, batch_size=4))
    assert faults == {
        paths[0]: "images is 40x56; both sides must be at least 44 pixels",
        paths[1]: "its score is nan",
    }


def test_an_image_that_exceeds_the_memory_is_a_fault_and_the_others_are_scored(folder, monkeypatch):
    def score(pixels):
        if len(pixels) > 1 or pixels[0, 0, 0, 0] == big[0, 0, 0]:
            raise MemoryError
        return np.ones(len(pixels))

    paths = [folder / f"same{i}.png" for i in range(3)]
    big = read_image(paths[1])
    monkeypatch.setattr(batches_of, "_compiled", lambda model: score)
    monkeypatch.setattr(batches_of, "_shrinker", lambda model: None)
    monkeypatch.setattr(batches_of, "_network_pixels", lambda model: math.prod)
    faults = {}
    scores = {k: v for done in batches_of.score_files(None, paths, faults, batch_size=3) for k, v in done.items()}
    assert "not enough memory for" in faults.pop(paths[1])
    assert list(scores) == [paths[0], paths[2]]
    assert not faults


@pytest.mark.slow
@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("batch_size", every(2, [8, 1]))
def test_the_number_of_compiled_programs_is_limited(tmp_path, monkeypatch, resized, batch_size):
    """For any number of sizes, with waiting batches and with images that are resized first."""
    run, resize = jax.jit(lambda x: x.max((1, 2, 3))), jax.jit(lambda x: x[:5, :5])
    held = []

    def score(pixels):
        found = np.asarray(run(pixels))
        held.append(run._cache_size() + resize._cache_size())
        return found

    monkeypatch.setattr(compiled, "PROGRAMS", 6)
    monkeypatch.setattr(batches_of, "_compiled", lambda model: score)
    monkeypatch.setattr(batches_of, "_shrinker", lambda model: (lambda x: np.asarray(resize(x))) if resized else None)
    monkeypatch.setattr(batches_of, "_network_pixels", lambda model: math.prod)
    paths = [tmp_path / f"{i:02}.png" for i in range(40)]
    for i, path in enumerate(paths):
        Image.new("RGB", (5 + i % 5, 5 + i // 5), (i, i, i)).save(path)
    faults = {}
    parts = list(batches_of.score_files(None, paths, faults, batch_size=batch_size))
    assert {path: score for part in parts for path, score in part.items()} == dict(zip(paths, range(40), strict=True))
    assert not faults
    assert 2 < max(held) <= 6


@pytest.mark.slow
def test_programs_are_dropped_when_memory_maps_run_short(monkeypatch):
    maps = [0]
    monkeypatch.setattr(compiled, "memory_maps", lambda: maps[0])
    held = set()
    for program in range(5):
        compiled.make_room(held, program)
    maps[0] = compiled.MAPS + 1
    compiled.make_room(held, 3)  # already held
    assert held == {0, 1, 2, 3, 4}
    compiled.make_room(held, 5)
    assert held == {5}
