import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxiqa.data import load, validate


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((6, 8, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def write(folder, *rows, header="image,mos"):
    (folder / "scores.csv").write_text("\n".join([header, *rows]) + "\n")


def error_of(folder, **options):
    with pytest.raises(ValueError, match=r"scores\.csv") as error:
        load("folder", source=str(folder), **options)
    return str(error.value)


def test_all_faults_are_in_one_error_with_their_rows(folder):
    write(folder, "0.png,1", "1.png,nan", "0.png,3", "9.png,4", "2.png,good", ",5", "3.png,inf")
    message = error_of(folder)
    for expected in ("row 3: 1.png", "'nan'", "row 4: 0.png appears twice, first in row 2", "row 5: 9.png is missing",
                     "row 6: 2.png", "'good'", "row 7: column 'image' is empty", "row 8: 3.png"):  # fmt: skip
        assert expected in message
    assert "6 problems" in message


def test_a_score_outside_the_scale_is_a_fault(folder):
    write(folder, "0.png,1", "1.png,101")
    assert "row 3: 1.png has the score '101'" in error_of(folder, mos_range=(0.0, 100.0))


def test_the_error_for_a_missing_column_lists_the_existing_ones(folder):
    write(folder, "0.png,1", header="image,score")
    assert "has no column 'mos'; its columns are 'image', 'score'" in error_of(folder)


@pytest.mark.parametrize("content", ["", "image,mos\n"])
def test_an_empty_table_is_an_error(folder, content):
    (folder / "scores.csv").write_text(content)
    assert "scores.csv" in error_of(folder)


def test_a_missing_table_is_an_error(folder):
    assert "scores.csv does not exist" in error_of(folder)


def test_a_row_with_a_decimal_comma_is_not_read_as_another_score(folder):
    write(folder, "0.png,1", "1.png,77,38", "2.png")
    message = error_of(folder)
    assert "row 3 has 3 values; the header has 2 columns" in message
    assert "row 4 has 1 value; the header has 2 columns" in message


def test_row_numbers_are_those_of_an_editor(folder):
    write(folder, "0.png,1", "", "1.png,nan")
    assert "row 4: 1.png" in error_of(folder)


def test_a_score_too_large_for_float32_is_a_fault(folder):
    write(folder, "0.png,1e39")
    assert "'1e39'" in error_of(folder)


def test_many_faults_are_counted(folder):
    write(folder, *[f"missing{i}.png,1" for i in range(25)])
    message = error_of(folder)
    assert "25 problems" in message
    assert "... and 5 more" in message
    assert "row 21" in message
    assert "row 22" not in message


def test_an_error_names_a_file_that_is_not_csv(folder):
    (folder / "scores.csv").write_bytes("image,mos\nphoto-é.png,1\n".encode("latin-1"))
    assert "is not a valid csv in UTF-8" in error_of(folder)


def test_a_duplicate_column_is_an_error(folder):
    write(folder, "0.png,1,2", header="image,mos,mos")
    assert "more than one column named 'mos'" in error_of(folder)


def test_an_unknown_split_is_named_with_its_row(folder):
    write(folder, "0.png,1,train", "1.png,2,training", header="image,mos,split")
    assert "row 3: 1.png belongs to the split 'training'; expected one of train, val, test" in error_of(folder)


def test_a_byte_order_mark_is_not_part_of_the_first_column(folder):
    (folder / "scores.csv").write_bytes(b"\xef\xbb\xbfimage,mos,split\n0.png,1,val\n")
    assert load("folder", source=str(folder))["val"].ids == ("0.png",)


def test_checking_prints_nothing_without_a_terminal(folder, capfd):
    write(folder, *[f"{i}.png,{i}" for i in range(4)])
    validate(load("folder", source=str(folder), split=(1, 0, 0))["train"])
    assert capfd.readouterr() == ("", "")


def test_a_damaged_image_is_found_before_training_with_its_row(folder):
    write(folder, *[f"{i}.png,{i}" for i in range(4)])
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    (folder / "3.png").write_bytes(b"")
    splits = load("folder", source=str(folder), split=(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="folder/train: 2 problems") as error:
        validate(splits["train"])
    assert f"scores.csv row 4: {folder / '2.png'}" in str(error.value)
    assert "row 5" in str(error.value)


def test_mixed_sizes_are_an_error_where_one_size_is_needed(folder):
    Image.new("RGB", (5, 5)).save(folder / "1.png")
    write(folder, *[f"{i}.png,{i}" for i in range(4)])
    split = load("folder", source=str(folder), split=(1.0, 0.0, 0.0))["train"]
    validate(split)
    with pytest.raises(ValueError, match=r"row 3: 1\.png is 5x5, most images are 8x6"):
        validate(split, uniform=True)


def test_a_digest_that_does_not_match_is_a_fault(shared, tmp_path):
    source = shared / "data" / "nips2017"
    header, first, *_ = (source / "images.csv").read_text().splitlines()
    name = first.split(",")[0]
    (tmp_path / "images.csv").write_text(f"{header}\n{first}\n")
    content = bytearray((source / name).read_bytes())
    content[-30] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"row 2: {name} does not match the digest"):
        load("nips2017", source=str(tmp_path))


@pytest.mark.parametrize("other", ["./0.png", "sub/../0.png", "link.png", "hard.png", "sub//../0.png"])
def test_one_file_under_two_spellings_counts_as_a_duplicate(folder, other):
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to("0.png")
    (folder / "hard.png").hardlink_to(folder / "0.png")
    write(folder, "0.png,1", f"{other},2")
    assert f"row 3: {other} appears twice, first in row 2" in error_of(folder)


@pytest.mark.parametrize("other", ["../1.png", "sub/../../1.png", "/dev/zero", "../../../../dev/zero", "a\x1bb.png"])
def test_the_error_names_a_path_outside_the_folder(folder, other):
    (folder.parent / "1.png").write_bytes((folder / "1.png").read_bytes())
    write(folder, "0.png,1", f"{other},2")
    message = error_of(folder)
    assert f"row 3: {other!r}" in message
    assert any(words in message for words in ("outside the folder", "absolute path", "control characters"))


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "dead link"])
def test_the_error_names_a_path_that_is_no_regular_file(folder, kind):
    other = folder / "x.png"
    make = {"fifo": lambda: os.mkfifo(other), "device": lambda: other.symlink_to("/dev/zero"),
            "folder": other.mkdir, "dead link": lambda: other.symlink_to("gone")}  # fmt: skip
    make[kind]()
    write(folder, "0.png,1", "x.png,2")
    assert "row 3: x.png is a " in error_of(folder)


@pytest.mark.parametrize(("stored", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_any_unicode_normal_form(folder, stored, listed):
    place = folder / unicodedata.normalize(stored, "Fotos für é")
    place.mkdir()
    (folder / "0.png").rename(place / unicodedata.normalize(stored, "Ärger.png"))
    name = unicodedata.normalize(listed, "Fotos für é/Ärger.png")
    write(folder, f"{name},1")
    split = load("folder", source=str(folder), split=(1.0, 0.0, 0.0))["train"]
    assert split.ids == (name,)
    assert split.images().shape == (1, 6, 8, 3)


@pytest.mark.parametrize(
    "text",
    [
        "image, mos\n0.png, 1.5\n",
        " image ,mos \n0.png ,1.5\n",
        "image;mos\r\n0.png;1,5\r\n",
        "image\tmos\n0.png\t1.5\n",
        '\ufeffimage;mos\r\n"0.png";1.5\r\n',
    ],
)
def test_spaces_semicolons_tabs_and_decimal_commas(folder, text):
    (folder / "scores.csv").write_bytes(text.encode())
    split = load("folder", source=str(folder), split=(1.0, 0.0, 0.0))["train"]
    assert (split.ids, split.mos.tolist()) == (("0.png",), [1.5])


def test_a_quote_that_is_never_closed_is_an_error(folder):
    write(folder, '"0.png,1', "1.png,2")
    assert "is not a valid csv in UTF-8" in error_of(folder)


def test_ambiguous_numbers_are_refused(folder):
    write(folder, "0.png,1_0", "1.png,٣")
    assert "2 problems" in error_of(folder)


def test_a_table_that_is_a_device_is_refused(folder):
    (folder / "scores.csv").symlink_to("/dev/zero")
    assert "is a device, not a file" in error_of(folder)


def test_the_repr_of_a_split_is_one_line_and_one_call_gives_images(folder):
    write(folder, *[f"{i}.png,{i}" for i in range(4)])
    split = load("folder", source=str(folder), split=(1.0, 0.0, 0.0))["train"]
    assert repr(split) == "Split('folder/train', 4 images, scores 0 to 3)"
    images = split.images(slice(1, 3))
    assert images.shape == (2, 6, 8, 3)
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.float32([40, 80]) / 255)
    Image.new("RGB", (5, 5)).save(folder / "1.png")
    with pytest.raises(ValueError, match=r"2 sizes \(5x5, 8x6\).*resized"):
        split.images()
    with pytest.raises(ValueError, match=r"np\.flatnonzero"):
        split.select(np.array([True, False, True, False]))
