"""Scored regions: read from the tables of FLIVE, resized and mirrored with the image, refused where they do not fit."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxiqa.data import array_record, builders, load, resized, select_subset, validate
from jaxiqa.data.pipeline import View, image_fetch

SIDES = ("left", "top", "right", "bottom")
PADDED = (3, 5)  # how far the boxes of the padded table are moved
BOXES = ((0, 0, 8, 4), (1, 2, 13, 9), (6, 8, 7, 9))


def row(number, height, width, moved=(0, 0)):
    """Return a row with the authors' columns; ``moved``: to the right and down."""
    boxes = {"image": (0, 0, width, height)} | {f"patch_{i}": box for i, box in enumerate(BOXES, 1)}
    found = {"name_image": f"photos/{number}.png", "mos_image": str(10 + number), "is_valid": str(number % 3 == 0)}
    for of, box in boxes.items():
        found |= {f"{side}_{of}": str(end + moved[i % 2]) for i, (side, end) in enumerate(zip(SIDES, box, strict=True))}
    return found | {f"mos_patch_{i}": str(20 * i + number) for i in (1, 2, 3)}


@pytest.fixture
def write(tmp_path):
    """Return the function that writes images and tables, with changes of the second row."""
    sizes = [(9, 13), (17, 13), (9, 40), (11, 15), (9, 13), (12, 13), (20, 30)]

    def written(**changes):
        (tmp_path / "photos").mkdir(exist_ok=True)
        rows = []
        for number, size in enumerate(sizes):
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
            rows.append(row(number, *size, PADDED if number < 5 else (0, 0)))
        rows[1] |= changes
        for name, some in (("labels=640_padded.csv", rows[:5]), ("labels640.csv", rows[5:])):
            with open(tmp_path / name, "w", newline="") as file:
                table = csv.DictWriter(file, some[0].keys())
                table.writeheader()
                table.writerows(some)
        return str(tmp_path)

    return written


def test_boxes_and_labels_of_the_authors_tables(write):
    splits = load("flive", source=write(), patches=True)
    assert {part: split.ids for part, split in splits.items()} == {
        "train": ("photos/1.png", "photos/2.png", "photos/4.png"),
        "val": ("photos/0.png", "photos/3.png"),
        "test": ("photos/5.png", "photos/6.png"),
    }
    for split in splits.values():
        validate(split)
        for index, name in enumerate(split.ids):
            number = int(name[7:-4])
            found = split.regions.pixels(index, split.read(index).shape[:2])
            np.testing.assert_array_equal(found, np.float32(BOXES))
            assert split.mos[index] == 10 + number
            assert split.regions.mos[index].tolist() == [20 + number, 40 + number, 60 + number]
    plain = load("flive", source=write())
    assert all(plain[part].regions is None for part in plain)
    assert all(plain[part].ids == splits[part].ids for part in plain)


def test_boxes_follow_the_image_through_resizing_and_mirroring(write):
    """A box that is painted white is white in every view, and nothing else is."""
    split = load("flive", source=write(), patches=True)["test"]
    image = np.zeros((20, 30, 3), np.uint8)
    left, top, right, bottom = BOXES[1]
    image[top:bottom, left:right] = 255
    split = split.select([1])
    object.__setattr__(split, "read", lambda index: image)
    for size in (None, (40, 60), (60, 30)):
        fetch = image_fetch(split, size)
        for view in (View(), View(mirrored=True), View(inverted=True), View(True, True)):
            example = fetch(0, view)
            left, top, right, bottom = example["boxes"][1].astype(int)
            assert (example["boxes"][1] % 1 == 0).all()
            painted = example["image"][..., 0] > 0.5
            assert painted[top:bottom, left:right].all()
            assert painted.sum() == (bottom - top) * (right - left)
            assert example["region_mos"].tolist() == [26, 46, 66]
    small = resized(split, (10, 15))
    np.testing.assert_array_equal(image_fetch(small, None)(0, View())["boxes"], np.float32(BOXES) / 2)


def test_parts_of_a_split_keep_their_regions(write, tmp_path):
    source = write()
    splits = load("flive", source=source, patches=True)
    chosen = splits["train"].select([2, 0])
    assert chosen.regions.mos[:, 0].tolist() == [24, 21]
    assert select_subset(splits["train"], 2, clusters=1).regions.mos.shape == (2, 3)
    folds = load("flive", source=source, patches=True, folds=2, fold=1)
    for split in folds.values():
        assert split.regions.mos[:, 0].tolist() == [20 + int(name[7:-4]) for name in split.ids]
    builders.write("flive", splits, tmp_path / "prepared")
    again = array_record.read(tmp_path / "prepared", "flive")
    for part, split in splits.items():
        np.testing.assert_array_equal(again[part].regions.boxes, split.regions.boxes)
        np.testing.assert_array_equal(again[part].regions.mos, split.regions.mos)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"right_patch_2": "17"},
            r"region 2 from \(1, 2\) to \(14, 9\); expected 0 <= left < right <= 13 and .*17",
        ),
        ({"bottom_patch_1": "23"}, r"region 1 from \(0, 0\) to \(8, 18\)"),
        ({"left_patch_1": "2"}, r"region 1 from \(-1, 0\)"),
        ({"left_patch_3": "10"}, r"region 3 from \(7, 8\) to \(7, 9\)"),
        ({"top_patch_3": "nan"}, r"region 3 from \(6, nan\)"),
        ({"mos_patch_3": "nan"}, r"region 3 with the score nan; expected a number in \[0\.0, 100\.0\]"),
        ({"mos_patch_1": "101"}, r"region 1 with the score 101; expected a number in \[0\.0, 100\.0\]"),
        ({"mos_patch_2": ""}, r"region 2 with the score nan"),
    ],
)
def test_regions_that_do_not_fit_are_named_with_their_row(write, changes, message):
    with pytest.raises(ValueError, match=r"labels=640_padded\.csv: 1 problem\n  row 3: photos/1\.png has " + message):
        load("flive", source=write(**changes), patches=True)
    load("flive", source=write(**changes))


def test_an_image_of_another_size_than_its_boxes_is_refused(write, tmp_path):
    split = load("flive", source=write(), patches=True)["train"]
    Image.new("RGB", (13, 9)).save(tmp_path / "photos" / "2.png")
    with pytest.raises(ValueError, match=r"row 4: photos/2\.png is 13x9, but the boxes of its regions are for 40x9"):
        validate(split)


def test_crops_and_regions_do_not_go_together(write):
    split = load("flive", source=write(), patches=True)["train"]
    with pytest.raises(ValueError, match=r"crop=\(4, 4\): flive/train has labels of regions"):
        image_fetch(split, None, crop=(4, 4))


def test_an_image_in_both_tables_is_refused(write, tmp_path):
    write()
    text = (tmp_path / "labels=640_padded.csv").read_text().splitlines()
    (tmp_path / "labels640.csv").write_text("\n".join([text[0], text[2]]) + "\n")
    with pytest.raises(ValueError, match=r"'labels=640_padded.csv' and 'labels640.csv' share 1 image, .*photos/1\.png"):
        load("flive", source=str(tmp_path))
