"""Writes, names and locks, also with full disks and folders that refuse writes."""

import errno
import os
import subprocess
import sys

import pytest

from jaxiqa.core import files
from jaxiqa.core.files import (
    WriteError,
    check_labels,
    check_space,
    locked,
    remove_leftovers,
    safe_name,
    write_bytes,
    write_text,
    writing,
)


@pytest.mark.parametrize("label", ["PGD-8", "robust_block+prune", "JPEG q50", "a" * 100])
def test_plain_labels_are_file_names(label):
    assert safe_name(label) == label


@pytest.mark.parametrize(
    "label",
    ["[/]", "../..", ".hidden", "a/b", "con", "NUL.txt", "é", "画質" * 60, "x" * 101, "trailing.", "a*b?", "$x$"],
)
def test_other_labels_become_portable_file_names(label, tmp_path):
    name = safe_name(label)
    assert name != label
    assert len(name.encode()) <= 100
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list(tmp_path.glob(name)) == [tmp_path / name]  # no character with a meaning in patterns


def test_labels_with_a_common_beginning_get_different_names():
    names = {safe_name("a" * 150 + ending) for ending in "bc"} | {safe_name("a/b"), safe_name("a:b")}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["A", "a"], "differ only in case"),
        (["x", ""], "not a label"),
        (["two\nlines"], "not a label"),
        (["Images"], "jaxiqa writes"),
    ],
)
def test_ambiguous_or_unprintable_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"variants: .*{message}"):
        check_labels("variants", labels, taken=["images"])
    check_labels("variants", ["画質", "[/]", "a" * 300, "a" * 299 + "b"])


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*file.*a file is where a folder should be"):
        write_text(tmp_path / "file" / "a.json", "{}")
    with (
        pytest.raises(WriteError, match=r"cannot write .*file.*a file is where a folder should be"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "mend"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "permissions"), (errno.EIO, "Inp")],
)
def test_a_refused_write_names_the_remedy_and_leaves_no_files(tmp_path, monkeypatch, number, mend):
    (tmp_path / "a.json").write_text("old")

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(WriteError, match=f"cannot write .*a.json: .*{mend}"):
        write_bytes(tmp_path / "a.json", b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "old"}


def test_value_errors_of_tensorstore_become_the_same_error(tmp_path):
    text = "RESOURCE_EXHAUSTED: Error writing x: No space left on device [os_error_code='28']"
    with pytest.raises(WriteError, match=f"^cannot write {tmp_path}: the disk is full"), writing(tmp_path):
        raise ValueError(text)
    with pytest.raises(ValueError, match=r"^other$"), writing(tmp_path):
        raise ValueError("other")


def test_space_is_checked_before_a_large_write(tmp_path):
    check_space(tmp_path, 1)
    with pytest.raises(WriteError, match="the disk is full; free some space"):
        check_space(tmp_path, 2**62)


def test_other_errors_pass_through_unchanged(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("x")


def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path):
    program = "import time\nfrom pathlib import Path\nfrom jaxiqa.core.files import locked"
    program += f"\nwith locked(Path({str(tmp_path)!r})):"
    program += "\n    print('in', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with pytest.raises(BlockingIOError, match="another process uses"), locked(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path, wait=5.0):
        pass


def test_leftovers_of_a_killed_write_are_removed_and_nothing_else(tmp_path):
    for name in (".a.png.123.tmp", "a.tmp", ".keep.tmp", "a.png"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tmp", ".keep.tmp", "a.png"}


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "é" * 120 + ".csv", "[b]{0}%s.csv", "-a.csv"])
def test_a_name_of_the_largest_length_can_be_written(tmp_path, name):
    files.write_bytes(tmp_path / name, b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_error_names_the_requested_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(WriteError, match=f"^cannot write {tmp_path}/{'x' * 300}: the name is too long"):
        files.write_bytes(tmp_path / ("x" * 300), b"1")


def test_locks_do_not_need_fcntl():
    """`fcntl` does not exist there."""
    code = "import sys; sys.modules['fcntl'] = None; import jaxiqa.core.files, jaxiqa.cli.score"
    subprocess.run([sys.executable, "-c", code], check=True)
