"""Stored images: spread over folders, found where older versions stored them, and read again only if they changed."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from own_purifiers import evaluated

from jaxiqa.data import known
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.adversarial_set import png_path
from jaxiqa.results.rows import Strength

STRENGTH = Strength(8 / 255)


def pixels(number):
    return np.random.default_rng(number).integers(0, 255, (4, 5, 3), np.uint8)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known, "FRESH", -1e6)
    made = evaluated(tmp_path / "run")
    names = [f"{number}.jpg" for number in range(6)]
    made.add(
        [
            adversarial_set.write(made, "A", STRENGTH, name, adversarial_set.encoded(pixels(i)))
            for i, name in enumerate(names)
        ]
    )
    return made, names


@pytest.fixture
def read(monkeypatch):
    names, read_bytes = [], Path.read_bytes

    def counting(path):
        names.extend([path.name] if path.suffix == ".png" else [])
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    return names


def test_no_folder_has_many_of_a_hundred_thousand_images(tmp_path):
    made = evaluated(tmp_path)
    paths = [png_path(made, "A", STRENGTH, f"{number}.jpg") for number in range(0, 100_000, 20)]
    folders = Counter(path.parent for path in paths)
    assert len(set(paths)) == len(paths)
    assert len(folders) == 256
    assert 20 * max(folders.values()) < 1000
    assert png_path(made, "A", STRENGTH, "0.jpg") == paths[0]


def test_a_second_start_reads_only_what_changed(stored, read, caplog):
    made, names = stored
    first = adversarial_set.digests(made, verify=True)
    assert len(first) == len(read) == 6
    read.clear()
    assert adversarial_set.digests(made, verify=True) == first
    assert read == []
    path = png_path(made, "A", STRENGTH, names[2])
    path.write_bytes(path.read_bytes()[:-9] + b"different")
    read.clear()
    with caplog.at_level(logging.WARNING):
        found = adversarial_set.digests(made, verify=True)
    assert read == [path.name]
    assert f"{path} is damaged; it is made again" in caplog.text
    assert first.keys() - found.keys() == {("A", names[2], STRENGTH.key)}


def test_images_of_older_versions_are_found(stored):
    made, names = stored
    first = adversarial_set.digests(made)
    for name in names:
        path = png_path(made, "A", STRENGTH, name)
        path.rename(path.parent.parent / path.name)
    assert adversarial_set.digests(made, verify=True) == first
    found = adversarial_set.read(made, "A", STRENGTH, names, first)
    np.testing.assert_array_equal(found, np.stack([pixels(number) for number in range(6)]))
    old = png_path(made, "A", STRENGTH, names[3]).parents[1] / f"{names[3]}.png"
    old.write_bytes(b"damaged")
    assert first.keys() - adversarial_set.digests(made, verify=True).keys() == {("A", names[3], STRENGTH.key)}
    made.add([adversarial_set.write(made, "A", STRENGTH, names[3], adversarial_set.encoded(pixels(3)))])
    assert not old.exists()
    assert adversarial_set.digests(made, verify=True) == first
