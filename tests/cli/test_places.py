"""Output paths are checked before the work: errors name path and remedy, and no other file is overwritten."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_interrupts import ROOT, start

from jaxiqa.cli import convert as conversion
from jaxiqa.cli import score as scoring
from jaxiqa.cli import train_filter
from jaxiqa.core import files
from jaxiqa.core.files import WriteError, check_file, check_folder, writing
from jaxiqa.data import array_record
from jaxiqa.models import loading


@pytest.fixture(autouse=True)
def work(monkeypatch):
    """Fail if the work begins: a bad output path must prevent it."""

    def begun(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(loading, "load_and_report", begun)
    monkeypatch.setattr(train_filter, "load_images", begun)


def convert(out):
    conversion.convert(conversion.Arguments("linearity", "in.safetensors", out / "o.safetensors"))


def filtering(out):
    train_filter.check(train_filter.Arguments(out / "o.safetensors", network="dncnn"))
    raise AssertionError("the work has begun")


def score(out):
    scoring.check_output(out / "o.safetensors", [])
    raise AssertionError("the work has begun")


def prepare(out):
    array_record.check_out("o.safetensors", out)
    raise AssertionError("the work has begun")


PROGRAMS = [convert, filtering, score, prepare]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_file_in_the_place_of_a_folder_is_an_error_before_the_work(tmp_path, program):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(
            WriteError, match=rf"^cannot write {tmp_path}/file.*: a file is where a folder should be; move"
        ):
            program(out)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.parametrize("program", [convert, filtering, score])
def test_a_folder_in_the_place_of_a_file_is_an_error_before_the_work(tmp_path, program):
    (tmp_path / "o.safetensors").mkdir()
    with pytest.raises(ValueError, match=rf"(out|csv): {tmp_path}/o\.safetensors is a folder; give the name of a file"):
        program(tmp_path)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failed_trial_write_is_an_error_before_the_work_and_leaves_no_files(tmp_path, program, number, monkeypatch):
    def refuse(self, content):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(WriteError, match=f"^cannot write {tmp_path}/new/sub[^:]*: {re.escape(files.MENDS[number])}"):
        program(tmp_path / "new" / "sub")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_missing_folders_are_accepted_and_the_check_does_not_create_them(tmp_path, program):
    with pytest.raises(AssertionError, match="the work has begun"):
        program(tmp_path / "new" / "sub")
    assert list(tmp_path.iterdir()) == []


def test_too_long_names_are_refused(tmp_path):
    with pytest.raises(WriteError, match="the name is too long for this file system; choose a shorter one"):
        check_file("out", tmp_path / ("n" * 256))
    with pytest.raises(WriteError, match="the name is too long"):
        check_folder(tmp_path / ("n" * 256) / "sub")
    check_file("out", tmp_path / ("n" * 255))
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "o")
    assert check_file("out", tmp_path / "link") == Path(os.path.realpath(tmp_path / "there" / "o"))
    with pytest.raises(ValueError, match="csv: /dev/null is a device, not a file; give the name of a file"):
        check_file("csv", Path("/dev/null"))


def test_a_conversion_never_overwrites_its_source(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_text("weights")
    (tmp_path / "link.safetensors").symlink_to(path)
    for out in (path, tmp_path / "link.safetensors", tmp_path / "." / "w.safetensors"):
        with pytest.raises(ValueError, match=r"^out: .* is IN itself; give another name"):
            conversion.convert(conversion.Arguments("linearity", str(path), out))
    assert path.read_text() == "weights"


def test_a_filter_does_not_overwrite_a_file_of_no_run(tmp_path):
    out = tmp_path / "o.safetensors"
    out.write_text("precious")
    arguments = train_filter.Arguments(out, network="dncnn")
    with pytest.raises(ValueError, match=r"^out: .*o\.safetensors exists, and .*o\.safetensors\.run does not; move it"):
        train_filter.check(arguments)
    (tmp_path / "o.safetensors.run").mkdir()
    (tmp_path / "o.safetensors.run" / "config.json").write_text("{}")
    train_filter.check(arguments)
    assert out.read_text() == "precious"


def test_a_prepared_set_is_not_written_to_an_occupied_path(tmp_path):
    (tmp_path / "clive").mkdir()
    (tmp_path / "clive" / "1.0.0").write_text("")
    with pytest.raises(ValueError, match=r"out: .*/clive/1\.0\.0 exists but is not a prepared clive; delete it"):
        array_record.check_out("clive", tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_runtime_errors_of_array_record_become_the_same_error(tmp_path, number):
    with (
        pytest.raises(WriteError, match=f"^cannot write {tmp_path}: {re.escape(files.MENDS[number])}"),
        writing(tmp_path),
    ):
        raise RuntimeError(
            f'Failed to finalize writing of split "train": write() failed: {os.strerror(number)}; at byte 2'
        )
    with pytest.raises(RuntimeError, match=r"^other$"), writing(tmp_path):
        raise RuntimeError("other")


@pytest.mark.slow
def test_the_commands_print_one_error_line(tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "o.safetensors"
    for arguments in (
        ["-m", "jaxiqa", "prepare", "builtin", "--out", out],
        ["-m", "jaxiqa", "convert", "linearity", "w", out],
        ["-m", "jaxiqa", "train-filter", out, "--network", "dncnn"],
    ):
        process = start(arguments, tmp_path)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 1
        first, *rest = said.strip().splitlines()
        assert re.match(f"error: cannot write {tmp_path}/file.*; move it or choose another path", first)
        assert rest == ["(set JAXIQA_TRACEBACK=1 to see where)"]


REAL = {
    "prepare": "-m jaxiqa prepare builtin --out D --options size=64,64 train=40 val=4 test=4",
    "train_filter": "-m jaxiqa train-filter D/o.safetensors --network dncnn --depth 3 --limit 8 --epochs 1",
    "score": "-m jaxiqa score linearity --weights none.pth IMAGES --csv D/o.csv",
    "convert": "-m jaxiqa convert linearity none.pth D/o.safetensors",
}


def on_a_disk_of_its_own(folder, options, *commands):
    """Run the commands one after another on a mounted memory disk; return their statuses and messages."""
    (folder / "D").mkdir()
    lines = [f"mount -t tmpfs -o size=200k tmpfs {folder}/D || exit 77", *options]
    lines += [line.replace("D/", f"{folder}/D/").replace("out D", f"out {folder}/D") for line in commands]
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", "\n".join(lines)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        ended = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if ended.returncode in (1, 77) and "status" not in ended.stdout:
        pytest.skip("nothing can be mounted here")
    return [int(word) for word in re.findall(r"status (\d+)", ended.stdout)], ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_read_only_disk_is_named(tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "IMAGES.png")
    command = f"{sys.executable} {REAL[name].replace('IMAGES', 'IMAGES.png')}; echo status $?"
    readonly = f"mount -o remount,ro {tmp_path}/D"
    statuses, said = on_a_disk_of_its_own(tmp_path, [readonly], command)
    assert statuses == [1]
    assert re.match(
        rf"error: cannot write {tmp_path}/D[^ ]*: the file system is read-only; choose another path\n", said
    )
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "train_filter"])
def test_a_full_disk_is_named_and_the_next_run_succeeds(tmp_path, name):
    command = f"{sys.executable} {REAL[name]}; echo status $?"
    left = f"find {tmp_path}/D -name '*tmp*' -o -name '*incomplete*' | sed 's/^/status 9 left /'"
    room = f"mount -o remount,size=100m {tmp_path}/D"
    statuses, said = on_a_disk_of_its_own(tmp_path, [], command, left, room, command)
    assert statuses == [1, 0], said
    assert re.search(rf"error: .*{tmp_path}/D.*([Nn]o space left|the disk is full; free some space)", said)
    assert "Traceback" not in said
