"""Files that were decoded before are not decoded again, unless they changed; a damaged cache is not believed."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from jaxiqa.data import known, load, validate
from jaxiqa.data.decode import read_image
from jaxiqa.data.validate import pixel_digests


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known, "FRESH", -1e6)
    source = tmp_path / "data"
    for part in ("a", "b"):
        (source / part).mkdir(parents=True)
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 10, 3), np.uint8)
        Image.fromarray(pixels).save(source / name)
    (source / "scores.csv").write_text("image,mos\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    return source


@pytest.fixture
def decoded(monkeypatch):
    names = []

    def counting(path, **options):
        names.append(path.name)
        return read_image(path, **options)

    monkeypatch.setattr("jaxiqa.data.split.read_image", counting)
    return names


def split_of(folder):
    return load("folder", source=str(folder), split=(1, 0, 0))["train"]


def test_a_second_start_decodes_only_what_changed(folder, decoded):
    first = pixel_digests(split_of(folder))
    assert len(decoded) == 6
    assert len(set(first)) == 6
    decoded.clear()
    assert pixel_digests(split_of(folder)) == first
    assert pixel_digests(split_of(folder).select([3, 1])) == (first[3], first[1])
    assert decoded == []
    path = folder / "b" / "3.png"
    before = path.stat()
    content = np.asarray(Image.open(path)).copy()
    content[0, 0] ^= 1
    Image.fromarray(content).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of status still tells
    changed = pixel_digests(split_of(folder))
    assert decoded == ["3.png"]
    assert [i for i in range(6) if changed[i] != first[i]] == [3]


def test_damaged_and_other_files_are_still_found(folder):
    validate(split_of(folder))
    Image.new("RGB", (4, 4)).save(folder / "a" / "2.png")
    with pytest.raises(ValueError, match=r"a/2\.png is 4x4, most images are 10x8"):
        validate(split_of(folder), uniform=True)
    (folder / "a" / "2.png").write_bytes(b"no image")
    for _ in range(2):  # a fault is not remembered
        with pytest.raises(ValueError, match=r"row 4: .*2\.png: cannot be decoded"):
            validate(split_of(folder))


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_damaged_cache_is_not_believed(folder, decoded, caplog, how):
    first = pixel_digests(split_of(folder))
    decoded.clear()
    for path in (folder.parent / "cache" / "known").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"flip": bytes(content), "cut": path.read_bytes()[:-5], "empty": b""}[how])
    with caplog.at_level(logging.WARNING):
        assert pixel_digests(split_of(folder)) == first
    assert "is damaged; files are read again" in caplog.text
    assert len(decoded) == 6
    decoded.clear()
    assert pixel_digests(split_of(folder)) == first
    assert decoded == []


def test_a_file_that_changed_just_now_is_not_remembered(folder, decoded, monkeypatch):
    monkeypatch.setattr(known, "FRESH", 1e6)
    validate(split_of(folder))
    validate(split_of(folder))
    assert len(decoded) == 12
