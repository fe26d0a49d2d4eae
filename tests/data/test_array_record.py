import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxiqa.cli.prepare import Arguments, prepare
from jaxiqa.data import load, validate
from jaxiqa.data.builders import write


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of images, and the same data set prepared."""
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (7, 9 + i, 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{i}.png")
    (source / "labels.csv").write_text("image,score\n" + "\n".join(f"{i}.png,{i / 7}" for i in range(12)))
    prepare(Arguments("folder", out, source, ("csv=labels.csv", "score_column=score", "mos_range=0,10")))
    return source, out


def test_a_prepared_set_equals_the_original(folders):
    source, out = map(str, folders)
    plain = load("folder", source=source, csv="labels.csv", score_column="score", mos_range=(0, 10))
    prepared = load("folder", source=out)
    assert list(prepared) == list(plain)
    for part, split in plain.items():
        assert prepared[part].ids == split.ids
        assert prepared[part].mos_range == split.mos_range
        np.testing.assert_array_equal(prepared[part].mos, split.mos)
        for index in range(len(split)):
            np.testing.assert_array_equal(prepared[part].read(index), split.read(index))
        validate(prepared[part])


def test_tensorflow_datasets_reads_the_same_examples(folders):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folders[1] / "folder" / "1.0.0"))
    source = builder.as_data_source(split="train")
    split = load("folder", source=str(folders[1]))["train"]
    for index, record in enumerate(source):
        np.testing.assert_array_equal(record["image"], split.read(index))
        assert record["mos"] == split.mos[index]
        assert record["id"].decode() == split.ids[index]


def test_tensorflow_is_not_needed(folders):
    load("folder", source=str(folders[1]))["train"].read(0)
    assert "tensorflow" not in sys.modules


def test_unlabelled_and_synthetic_sets_can_be_prepared(tmp_path):
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "images.csv").write_text("image\na.png\n")
    prepare(Arguments("nips2017", tmp_path / "out", tmp_path))
    split = load("nips2017", source=str(tmp_path / "out"))["test"]
    assert split.mos is None
    assert split[0]["image"][0, 0].tolist() == [255, 0, 0]

    prepare(Arguments("builtin", tmp_path / "out", options=("size=16,20", "train=4", "val=4", "test=4")))
    made = load("builtin", size=(16, 20), train=4, val=4, test=4)["val"]
    read = load("builtin", source=str(tmp_path / "out"))["val"]
    assert read.ids == made.ids
    np.testing.assert_array_equal(read.read(3), made.read(3))


def test_a_prepared_set_has_no_options_and_is_not_overwritten(folders):
    source, out = folders
    with pytest.raises(ValueError, match="takes no options, but got seed"):
        load("folder", source=str(out), seed=1)
    with pytest.raises(ValueError, match="already holds a prepared folder"):
        prepare(Arguments("folder", out, source, ("csv=labels.csv", "score_column=score")))
    with pytest.raises(ValueError, match="holds no prepared data set"):
        load("builtin", source=str(out))


def test_a_damaged_record_is_named(tmp_path):
    prepare(Arguments("builtin", tmp_path, options=("size=64,64", "train=4", "val=4", "test=4")))
    (records,) = (tmp_path / "builtin" / "1.0.0").glob("*train.array_record*")
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 255
    records.write_bytes(content)
    with pytest.raises(ValueError, match=r"builtin/train: \d problem.*\n.*train-000\d.*cannot be read"):
        validate(load("builtin", source=str(tmp_path))["train"])


@pytest.mark.slow
def test_errors_of_prepare_name_the_fault():
    command = [sys.executable, "-m", "jaxiqa", "prepare"]
    failed = subprocess.run([*command, "clive", "--source", "/nowhere", "--out", "x"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "/nowhere" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_an_interrupt_at_the_start_of_a_write_leaves_nothing(tmp_path, monkeypatch):
    make = os.mkdir

    def interrupted(path, *options, **others):
        make(path, *options, **others)
        if "incomplete." in str(path):  # Ctrl-C between the new folder and the code that would remove it
            raise KeyboardInterrupt

    splits = load("builtin", size=(16, 16), train=2, val=1, test=1)
    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write("builtin", splits, tmp_path)
    assert not list(tmp_path.rglob("incomplete*"))
