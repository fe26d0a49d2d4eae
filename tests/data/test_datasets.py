import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxiqa import data
from jaxiqa.data import DATASETS, load
from jaxiqa.data.builtin import similarity
from jaxiqa.data.distortions import DISTORTIONS
from jaxiqa.data.scenes import scene

SMALL = {"size": (20, 28), "train": 12, "val": 8, "test": 8}


@pytest.fixture(scope="module", params=DATASETS)
def splits(request, tmp_path_factory):
    from PIL import Image

    name = request.param
    if name == "builtin":
        return load(name, **SMALL)
    folder = tmp_path_factory.mktemp(name)
    if name in ("clive", "nips2017"):
        shared = os.environ.get("JAXIQA_SHARED")
        if not shared:
            pytest.skip("JAXIQA_SHARED does not name a folder with the reference data")
        return load(name, source=f"{shared}/data/{name}")
    pixels = np.random.default_rng(0)
    images = [f"{i}.png" for i in range(20)]
    target = folder / "1024x768" if name == "koniq10k" else folder
    target.mkdir(exist_ok=True)
    for image in images:
        Image.fromarray(pixels.integers(0, 256, (9, 13, 3), np.uint8)).save(target / image)
    if name == "koniq10k":
        parts = ["training"] * 12 + ["validation"] * 4 + ["test"] * 4
        rows = [f"{image},{50 + i},{part}" for i, (image, part) in enumerate(zip(images, parts, strict=True))]
        (folder / "koniq10k_distributions_sets.csv").write_text("\n".join(["image_name,MOS,set", *rows]))
    else:
        (folder / "scores.csv").write_text(
            "\n".join(["image,mos", *[f"{image},{i}" for i, image in enumerate(images)]])
        )
    return load(name, source=str(folder))


def test_every_data_set_keeps_the_contract(splits):
    assert set(splits) <= {"train", "val", "test"}
    ids = [image for split in splits.values() for image in split.ids]
    assert len(set(ids)) == len(ids)
    for split in splits.values():
        assert len(split) == len(split.ids) > 0
        for index in (0, len(split) - 1):
            example, again = split[index], split[index]
            assert example["image"].dtype == np.uint8
            assert example["image"].ndim == 3
            assert example["image"].shape[2] == 3
            np.testing.assert_array_equal(example["image"], again["image"])
            assert example["id"] == split.ids[index]
        if split.mos is None:
            assert "mos" not in split[0]
        else:
            assert np.isfinite(split.mos).all()
            assert split[0]["mos"] == split.mos[0]
            if split.mos_range:
                assert split.mos_range[0] <= split.mos.min() <= split.mos.max() <= split.mos_range[1]


def test_clive_has_the_official_numbers(shared):
    splits = load("clive", source=str(shared / "data" / "clive"))
    assert {part: len(split) for part, split in splits.items()} == {"train": 825, "val": 104}
    splits = load("clive", source=str(shared / "data" / "clive"), test_fraction=0.1)
    assert {part: len(split) for part, split in splits.items()} == {"train": 743, "val": 104, "test": 82}
    assert not set(splits["train"].ids) & set(splits["test"].ids)


def test_a_random_split_of_a_folder_has_the_stated_shares_and_follows_its_seed(tmp_path):
    from PIL import Image

    for i in range(50):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    (tmp_path / "scores.csv").write_text("image,mos\n" + "\n".join(f"{i}.png,{i}" for i in range(50)))
    first, other = load("folder", source=str(tmp_path)), load("folder", source=str(tmp_path), seed=1)
    assert [len(first[part]) for part in ("train", "val", "test")] == [40, 5, 5]
    assert first["test"].ids != other["test"].ids
    assert first["test"].ids == load("folder", source=str(tmp_path))["test"].ids


def test_builtin_pictures_follow_the_seed_and_splits_share_no_scene():
    first, again, other = load("builtin", **SMALL), load("builtin", **SMALL), load("builtin", **SMALL, seed=1)
    np.testing.assert_array_equal(first["train"].read(3), again["train"].read(3))
    assert (first["train"].read(3) != other["train"].read(3)).any()
    np.testing.assert_array_equal(first["train"].mos, again["train"].mos)
    assert (first["train"].read(0) != first["val"].read(0)).any()


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_a_stronger_distortion_has_a_lower_label(kind):
    values = np.zeros((4, 3))
    for number in range(4):
        picture = scene(np.random.default_rng(number), (40, 56))
        for column, strength in enumerate((0.1, 0.5, 1.0)):
            damaged = np.clip(DISTORTIONS[kind](picture, strength, np.random.default_rng(0)), 0, 1)
            values[number, column] = similarity(picture, damaged)
    means = values.mean(0)
    assert means[0] > means[1] > means[2]


def test_unknown_names_options_and_folders_say_what_is_allowed(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'builtin', 'clive'"):
        load("live")
    with pytest.raises(ValueError, match="'size'"):
        load("builtin", sise=(32, 32))
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="JAXIQA_DATA"):
        load("clive")


def test_a_prepared_set_reads_like_the_plain_one_and_needs_no_tensorflow(tmp_path):
    """In a process of its own, so that nothing else can have imported TensorFlow."""
    code = f"""
import json, sys
import numpy as np
from PIL import Image
from jaxiqa import data
source, out = {str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}
import pathlib; pathlib.Path(source).mkdir()
for i in range(12):
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (7, 9 + i, 3), np.uint8)).save(f"{{source}}/{{i}}.png")
open(f"{{source}}/scores.csv", "w").write("image,mos\\n" + "\\n".join(f"{{i}}.png,{{i * 1.5}}" for i in range(12)))
from jaxiqa.data.prepare import Options, main
main(Options("folder", pathlib.Path(out), pathlib.Path(source)))
plain, prepared = data.load("folder", source=source), data.load("folder", source=out)
assert set(plain) == set(prepared), (plain, prepared)
for part in plain:
    rows = {{i: (m, plain[part].read(k)) for k, (i, m) in enumerate(zip(plain[part].ids, plain[part].mos))}}
    assert set(rows) == set(prepared[part].ids)
    for k, image in enumerate(prepared[part].ids):
        assert rows[image][0] == prepared[part].mos[k]
        np.testing.assert_array_equal(rows[image][1], prepared[part].read(k))
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
print(json.dumps({{part: len(split) for part, split in prepared.items()}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sum(json.loads(done.stdout.splitlines()[-1]).values()) == 12


def test_preparing_says_what_is_wrong_and_help_is_quick():
    command = [sys.executable, "-m", "jaxiqa.data.prepare"]
    failed = subprocess.run([*command, "clive", "--source", "/nowhere", "--out", "x"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "/nowhere" in failed.stderr
    assert "Traceback" not in failed.stderr
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert "--source" in helped.stdout


def test_relative_sources_lie_under_the_data_folder(monkeypatch):
    monkeypatch.setenv("JAXIQA_DATA", "/pictures")
    assert str(data.resolve("clive")) == "/pictures/clive"
    assert str(data.resolve("/else/where")) == "/else/where"
