"""Wrong arguments of data functions are refused before any image is read; errors state the allowed values."""

import inspect
import json

import numpy as np
import pytest
from PIL import Image

from jaxiqa import data
from jaxiqa.cli.prepare import Arguments, prepare
from jaxiqa.data.datasets.clive import clive
from jaxiqa.data.datasets.folder import folder

builtin, resized, load, select_subset = map(
    inspect.unwrap, (data.builtin, data.resized, data.load, data.select_subset)
)  # without type checks, which only the tests switch on
folder, clive = map(inspect.unwrap, (folder, clive))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for i in range(10):
        Image.fromarray(np.full((7, 9, 3), i, np.uint8)).save(path / f"{i}.png")
    (path / "scores.csv").write_text(
        "image,mos,split\n" + "".join(f"{i}.png,{i},{'val' * (i > 6) or 'train'}\n" for i in range(10))
    )
    (path / "plain.csv").write_text("image,mos\n" + "".join(f"{i}.png,{i}\n" for i in range(10)))
    return path


SIZES = [96, "96", "96,96", (96,), (96, 96, 3), None, (8, 96), (96.5, 96), (True, 96), ("96", 96), (np.nan, 96)]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_pairs_of_whole_numbers(size):
    with pytest.raises(ValueError, match=r"^size="):
        builtin(size=size, train=4, val=4, test=4)
    if size not in (None, (8, 96)):
        with pytest.raises(ValueError, match=r"^size="):
            resized(builtin(size=(16, 16), train=1, val=1, test=1)["val"], size)


def test_correct_sizes_of_all_types_are_accepted():
    splits = builtin(size=[np.int64(16), 20], train=1, val=1, test=1)
    assert splits["val"].read(0).shape == (16, 20, 3)
    assert resized(splits["val"], np.array([1, 5])).read(0).shape == (1, 5, 3)
    with pytest.raises(ValueError, match=r"split is a dict; .*choose one of its splits, 'train', 'val', 'test'"):
        resized(splits, (8, 8))
    with pytest.raises(ValueError, match=r"split is a list; expected a jaxiqa\.data.Split"):
        resized([splits["val"]], (8, 8))
    with pytest.raises(ValueError, match=r"size=0 is not allowed"):
        resized(splits["val"], (0, 8))


@pytest.mark.parametrize("name", ["train", "val", "test", "seed"])
@pytest.mark.parametrize("value", [-1, 1.5, "4", None, True, [4]])
def test_numbers_of_synthetic_images_must_be_integers(name, value):
    with pytest.raises(ValueError, match=rf"^{name}=.* is not allowed; expected an integer >= "):
        builtin(**({"size": (16, 16), "train": 1, "val": 1, "test": 1} | {name: value}))


@pytest.mark.parametrize("value", ["0.1", 1.0, -0.1, float("nan"), None, [0.1], True, 0.01, 0.99])
def test_a_bad_test_fraction_is_refused(source, value):
    with pytest.raises(ValueError, match=r"^test_fraction="):
        clive(source, test_fraction=value)


SHARES = [(0.8, 0.2), 0.8, "0.8,0.1,0.1", ("0.8", 0.1, 0.1), None, (0.8, 0.1, 0.2), (0.8, -0.1, 0.3)]


@pytest.mark.parametrize("split", [*SHARES, (np.nan, 0.5, 0.5), (0.98, 0.01, 0.01), (0.5, 0.49, 0.01)])
def test_bad_shares_are_refused(source, split):
    with pytest.raises(ValueError, match=r"^split="):
        folder(source, csv="plain.csv", split=split)


def test_shares_of_zero_and_few_images_are_handled(source, tmp_path):
    assert {k: len(v) for k, v in folder(source, csv="plain.csv", split=(0.5, 0, 0.5)).items()} == {
        "train": 5,
        "test": 5,
    }
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "scores.csv").write_text("image,mos\na.png,1\n")
    assert list(folder(tmp_path)) == ["train"]
    with pytest.raises(ValueError, match="leaves none of 1 images for train; give larger shares, or 0"):
        folder(tmp_path, split=(0.5, 0.5, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_column": "MOS"}, r"scores\.csv: has no column 'MOS'; its columns are 'image', 'mos', 'split'"),
        ({"image_column": "file"}, r"scores\.csv: has no column 'file'"),
        ({"split_column": "part"}, r"scores\.csv: has no column 'part'"),
        ({"csv": "other.csv"}, r"other\.csv does not exist"),
        ({"csv": 3}, "csv=3 is not allowed"),
        ({"csv": ""}, "csv='' is not allowed"),
        ({"image_column": None}, "image_column=None is not allowed"),
        ({"mos_range": 5}, r"mos_range=5 is not allowed; expected \(lowest, highest\)"),
        ({"mos_range": "0,10"}, r"mos_range='0,10' is not allowed; expected \(lowest, highest\)"),
        ({"mos_range": ("a", "b")}, r"mos_range=\('a', 'b'\) is not allowed"),
        ({"mos_range": (10, 0)}, r"mos_range=\(10, 0\) is not allowed"),
        ({"mos_range": (0, np.nan)}, r"mos_range=.* is not allowed"),
        ({"mos_range": (0, 5)}, r"4 problems\n  row 8: 6\.png has the score '6'"),
        ({"seed": 1.5}, "seed=1.5 is not allowed"),
    ],
)
def test_errors_name_options_of_a_folder(source, options, message):
    with pytest.raises(ValueError, match=message):
        folder(source, **options)


def test_errors_name_options_of_load(source):
    with pytest.raises(ValueError, match=r"option of data set 'folder'='score_colum' is not allowed; .*score_column"):
        load("folder", source=str(source), score_colum="mos")
    for limit in (1.5, "3", 0, True):
        with pytest.raises(ValueError, match=r"limit=.* is not allowed; expected an integer >= 1"):
            inspect.unwrap(data.Split.take)(folder(source)["train"], limit)


@pytest.mark.parametrize("name", ["nope", "Clive", None, 3, ["folder"], {"a": 1}])
def test_errors_name_unknown_data_sets(name):
    with pytest.raises(ValueError, match=r"data set=.* is not allowed; choose from 'builtin', 'clive'"):
        load(name)


def test_a_folder_may_be_a_string_and_missing_images_are_named_with_their_rows(source, tmp_path):
    assert len(folder(str(source))["train"]) == 7
    (tmp_path / "scores.csv").write_text("image,mos\nnone.png,1\n0.png,2\n")
    with pytest.raises(ValueError, match=r"2 problems\n  row 2: none\.png is missing.*\n  row 3: 0\.png is missing"):
        folder(tmp_path)


@pytest.mark.parametrize("name", ["count", "clusters", "seed"])
@pytest.mark.parametrize("value", ["3", 2.5, None, -1])
def test_numbers_of_a_subset_must_be_integers(source, name, value):
    with pytest.raises(ValueError, match=rf"^{name}="):
        select_subset(folder(source)["train"], **({"count": 4, "clusters": 2} | {name: value}))


def test_positions_of_a_split_are_checked(source):
    split = folder(source)["train"]
    images, select = (inspect.unwrap(getattr(type(split), name)) for name in ("images", "select"))
    assert images(split, [-1]).shape == (1, 7, 9, 3)
    for call in (images, select):
        with pytest.raises(IndexError, match="folder/train: there is no image 99; it has 7"):
            call(split, [0, 99])
        with pytest.raises(ValueError, match="indices are of type float64"):
            call(split, [0.5])
    with pytest.raises(ValueError, match="selects none of 7 images"):
        images(split, slice(7, 9))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    prepare(Arguments("builtin", out, options=("size=64,64", "train=4", "val=4", "test=4")))
    return out, {path: path.read_bytes() for path in (out / "builtin" / "1.0.0").iterdir()}


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "older"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json", "digests.sealed"])
@pytest.mark.parametrize("content", [None, b"", b"cut", b"\xff\x00" * 50, b"[]", b"{}", b"null", b"flipped"])
def test_a_damaged_description_of_a_prepared_set_is_named(prepared, name, content, sealed):
    out, whole = prepared
    for path, before in whole.items():
        path.write_bytes(before)
    path = out / "builtin" / "1.0.0" / name
    before = path.read_bytes()
    if not sealed:
        (out / "builtin" / "1.0.0" / "digests.sealed").unlink()
    if content is None:
        path.unlink(missing_ok=True)
    else:
        flipped = bytearray(before)
        flipped[len(before) // 2] ^= 1
        path.write_bytes({b"cut": before[: len(before) // 2], b"flipped": bytes(flipped)}.get(content, content))
    if name == "digests.sealed" and content is None:  # an old set without digests
        load("builtin", source=str(out))
        return
    if not sealed and content == b"flipped":
        return  # cannot be detected
    message = (
        "holds no prepared data set"
        if (name, content) == ("dataset_info.json", None)
        else r"1\.0\.0 is damaged \(.*; delete"
    )
    with pytest.raises(ValueError, match=message):
        load("builtin", source=str(out))


def test_a_changed_score_of_a_prepared_set_is_detected(prepared):
    out, whole = prepared
    for path, before in whole.items():
        path.write_bytes(before)
    load("builtin", source=str(out))
    path = out / "builtin" / "1.0.0" / "metadata.json"
    content = json.loads(path.read_text())
    content["parts"]["val"]["mos"][1] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata\.json was changed"):
        load("builtin", source=str(out))


@pytest.mark.parametrize("content", [None, b"", b"cut", b"\xff\x00" * 50])
def test_records_that_are_cut_or_missing_are_named(prepared, content):
    out, whole = prepared
    for path, before in whole.items():
        path.write_bytes(before)
    (path,) = (out / "builtin" / "1.0.0").glob("*train.array_record*")
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(before[: len(before) // 2] if content == b"cut" else content)
    with pytest.raises(ValueError, match=r"train: 4 problems\n  train-0000.*: the prepared record cannot be read"):
        data.validate(load("builtin", source=str(out))["train"])
