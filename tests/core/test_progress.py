import errno

import pytest

from jaxiqa.core import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_a_minute_with_the_time_left(capsys, clock):
    with progress.progress_bar("scoring", "pictures") as update:
        for done in range(40, 100):  # 40 were done before
            clock[0] += 10
            update(done + 1, 100, "SSIM [0.9]")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9  # and none for the last picture, which ends the tenth minute
    assert lines[0] == "scoring: 46 of 100 pictures, 11 minutes left, SSIM [0.9]"
    assert lines[-1].startswith("scoring: 94 of 100 pictures, 1 minutes left")


def test_short_work_says_nothing_in_a_log_file(capsys, clock):
    with progress.progress_bar("scoring", "pictures") as update:
        for done in range(5):
            clock[0] += 10
            update(done + 1, 5, "")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), "runs/a: the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "out"), "out: the file system is read-only"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.png/x"), "a.png/x: a file is where a folder"),
        (PermissionError(errno.EACCES, "Permission denied", "x[/y]"), "x[/y]: permission denied"),
        (MemoryError(), "out of memory"),
        (type("JaxRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: 8 GiB"), "out of memory"),
    ],
)
def test_errors_of_the_machine_are_one_line_with_path_and_mend(error, message):
    with pytest.raises(SystemExit) as ended, progress.explained():
        raise error
    first, *rest = str(ended.value).splitlines()
    assert first.startswith(f"error: {message}")
    assert rest == ["(set JAXIQA_TRACEBACK=1 to see where)"]


def test_faults_of_the_code_keep_their_traceback():
    with pytest.raises(TypeError), progress.explained():
        raise TypeError("unsupported operand")


def test_ctrl_c_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as ended, progress.explained("the same command goes on"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; the same command goes on\n"


def test_names_in_brackets_are_no_markup(capsys):
    progress.say("scores[v2].csv in run[/best]")
    assert capsys.readouterr().out == "scores[v2].csv in run[/best]\n"
