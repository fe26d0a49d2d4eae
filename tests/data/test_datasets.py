import os
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxiqa import data
from jaxiqa.data import DATASETS, load

SMALL = {"size": (20, 28), "train": 12, "val": 8, "test": 8}


def write_images(folder, count):
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (9, 13 + i % 2, 3), np.uint8)).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def write_table(path, *lines):
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module", params=DATASETS)
def arguments(request, tmp_path_factory):
    """Return the arguments to load each data set: the reference data, or a few random images in the same layout."""
    name = request.param
    if name == "builtin":
        return {"name": name, **SMALL}
    folder = tmp_path_factory.mktemp(name)
    if name in ("clive", "nips2017"):
        shared = os.environ.get("JAXIQA_SHARED")
        if not shared:
            pytest.skip("JAXIQA_SHARED does not name a folder with the reference data")
        return {"name": name, "source": f"{shared}/data/{name}"}
    if name == "koniq10k":
        images = write_images(folder / "1024x768", 20)
        parts = ["training"] * 12 + ["validation"] * 4 + ["test"] * 4
        rows = [f"{image},{50 + i},{part}" for i, (image, part) in enumerate(zip(images, parts, strict=True))]
        write_table(folder / "koniq10k_distributions_sets.csv", "image_name,MOS,set", *rows)
    elif name == "flive":
        images = write_images(folder, 20)
        rows = [f"{image},{50 + i},{i > 9}" for i, image in enumerate(images)]
        write_table(folder / "labels=640_padded.csv", "name_image,mos_image,is_valid", *rows[:14])
        write_table(folder / "labels640.csv", "name_image,mos_image,is_valid", *rows[14:])
    else:
        images = write_images(folder, 20)
        write_table(folder / "scores.csv", "image,mos", *[f"{image},{i}" for i, image in enumerate(images)])
    return {"name": name, "source": str(folder)}


def test_every_data_set_passes_the_contract(arguments):
    splits, again = load(**arguments), load(**arguments)
    assert splits
    assert set(splits) <= {"train", "val", "test"}
    ids = [image for split in splits.values() for image in split.ids]
    assert len(set(ids)) == len(ids)
    for part, split in splits.items():
        assert split.name == f"{arguments['name']}/{part}"
        assert len(split) == len(split.ids) > 0
        assert split.ids == again[part].ids
        pickled = pickle.loads(pickle.dumps(split))
        for index in (0, len(split) - 1):
            example = split[index]
            assert example["image"].dtype == np.uint8
            assert example["image"].ndim == 3
            assert example["image"].shape[2] == 3
            np.testing.assert_array_equal(example["image"], again[part].read(index))
            np.testing.assert_array_equal(example["image"], pickled.read(index))
            assert example["id"] == split.ids[index]
        if split.mos is None:
            assert "mos" not in split[0]
            continue
        assert split.mos.dtype == np.float32
        assert split.mos.shape == (len(split),)
        assert np.isfinite(split.mos).all()
        assert split[0]["mos"] == split.mos[0]
        np.testing.assert_array_equal(split.mos, again[part].mos)
        if split.mos_range:
            assert split.mos_range[0] <= split.mos.min() <= split.mos.max() <= split.mos_range[1]


def test_a_limit_keeps_the_first_images():
    splits = load("builtin", **SMALL)
    limited = load("builtin", limit=3, **SMALL)
    for part, split in limited.items():
        assert split.ids == splits[part].ids[:3]
        np.testing.assert_array_equal(split.mos, splits[part].mos[:3])
        np.testing.assert_array_equal(split.read(2), splits[part].read(2))
    assert len(load("builtin", limit=10**6, **SMALL)["val"]) == 8
    with pytest.raises(ValueError, match="limit=0"):
        load("builtin", limit=0, **SMALL)


def test_clive_has_the_official_numbers(shared):
    source = str(shared / "data" / "clive")
    splits = load("clive", source=source)
    assert {part: len(split) for part, split in splits.items()} == {"train": 825, "val": 104}
    held_out = load("clive", source=source, test_fraction=0.1, verify=False)
    assert {part: len(split) for part, split in held_out.items()} == {"train": 743, "val": 104, "test": 82}
    assert set(held_out["train"].ids) | set(held_out["test"].ids) == set(splits["train"].ids)
    assert held_out["val"].ids == splits["val"].ids
    other = load("clive", source=source, test_fraction=0.1, seed=1, verify=False)
    assert other["test"].ids != held_out["test"].ids
    with pytest.raises(ValueError, match=r"test_fraction=1\.0"):
        load("clive", source=source, test_fraction=1.0, verify=False)


@pytest.mark.slow
def test_koniq10k_has_the_official_numbers(shared, tmp_path):
    """The image files are empty: the user supplies the real ones."""
    table = (shared / "data" / "koniq10k" / "koniq10k_distributions_sets.csv").read_text()
    (tmp_path / "koniq10k_distributions_sets.csv").write_text(table)
    with pytest.raises(ValueError, match=r"512x384 does not exist.*koniq-10k-database"):
        load("koniq10k", source=str(tmp_path), images="512x384")
    (tmp_path / "512x384").mkdir()
    for line in table.splitlines()[1:]:
        (tmp_path / "512x384" / line.split(",")[0]).touch()
    splits = load("koniq10k", source=str(tmp_path), images="512x384")
    assert {part: len(split) for part, split in splits.items()} == {"train": 7058, "val": 1000, "test": 2015}
    assert splits["train"].ids[0] == "10004473376.jpg"
    assert splits["train"].mos[0] == np.float32(77.3836206897)


@pytest.mark.parametrize(("name", "table"), [("clive", "scores.csv"), ("nips2017", "images.csv")])
def test_digests_are_checked_where_the_table_has_them(tmp_path, name, table):
    write_images(tmp_path, 1)
    write_table(tmp_path / table, "image,mos,split,sha256", f"0.png,1,train,{'0' * 64}")
    with pytest.raises(ValueError, match=r"row 2: 0\.png does not match the digest"):
        load(name, source=str(tmp_path))
    load(name, source=str(tmp_path), verify=False)
    write_table(tmp_path / table, "image,mos,split", "0.png,1,train")
    load(name, source=str(tmp_path))


def test_a_random_split_of_a_folder_has_the_given_shares_and_depends_on_the_seed(tmp_path):
    images = write_images(tmp_path, 50)
    write_table(tmp_path / "scores.csv", "image,mos", "", *[f"{image},{i}" for i, image in enumerate(images)])
    first, other = load("folder", source=str(tmp_path)), load("folder", source=str(tmp_path), seed=1)
    assert [len(first[part]) for part in ("train", "val", "test")] == [40, 5, 5]
    assert first["test"].ids != other["test"].ids
    assert first["test"].ids == load("folder", source=str(tmp_path))["test"].ids
    shares = load("folder", source=str(tmp_path), split=(0.5, 0.0, 0.5))
    assert {part: len(split) for part, split in shares.items()} == {"train": 25, "test": 25}
    for bad in ((0.5, 0.1, 0.1), (0.9, 0.1), (1.5, -0.5, 0.0)):
        with pytest.raises(ValueError, match="sum to 1"):
            load("folder", source=str(tmp_path), split=bad)
    with pytest.raises(ValueError, match="mos_range"):
        load("folder", source=str(tmp_path), mos_range=(5, 1))


@pytest.mark.parametrize(("column", "options"), [("split", {}), ("fold", {"split_column": "fold"})])
def test_a_folder_keeps_the_split_of_its_table(tmp_path, column, options):
    write_images(tmp_path / "images", 3)
    rows = [f"images/{i}.png,{i},{part}" for i, part in enumerate(("val", "test", "train"))]
    write_table(tmp_path / "labels.csv", f"file,score,{column}", *rows)
    splits = load(
        "folder", source=str(tmp_path), csv="labels.csv", image_column="file", score_column="score", **options
    )
    assert {part: split.ids for part, split in splits.items()} == {
        "train": ("images/2.png",),
        "val": ("images/0.png",),
        "test": ("images/1.png",),
    }


def test_a_folder_without_scores_is_all_test(tmp_path):
    write_table(tmp_path / "scores.csv", "image", *write_images(tmp_path, 3))
    splits = load("folder", source=str(tmp_path), score_column=None)
    assert set(splits) == {"test"}
    assert splits["test"].mos is None
    splits = load("folder", source=str(tmp_path), score_column=None, mos_range=(1, 5))  # 0 is outside
    assert splits["test"].mos is None


def test_errors_of_unknown_names_options_and_folders_list_the_allowed_ones(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'builtin', 'clive'"):
        load("live")
    with pytest.raises(ValueError, match="'size'"):
        load("builtin", sise=(32, 32))
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    for name in ("clive", "flive", "koniq10k", "nips2017"):
        with pytest.raises(ValueError, match=rf"{tmp_path}/{name}/.* does not exist.*https://.*JAXIQA_DATA"):
            load(name)


def test_relative_sources_are_below_the_data_folder(monkeypatch):
    monkeypatch.setenv("JAXIQA_DATA", "/images")
    assert str(data.resolve("clive")) == "/images/clive"
    assert str(data.resolve("/else/where")) == "/else/where"
    monkeypatch.delenv("JAXIQA_DATA")
    assert str(data.resolve("clive")) == "data/clive"
