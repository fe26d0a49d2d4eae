"""How programs end: errors in one line, Ctrl-C, bugs with a traceback."""

import errno

import pytest

from jaxiqa.cli import runtime
from jaxiqa.cli.runtime import explained


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
def test_system_errors_are_one_line_with_path_and_remedy(error, message):
    with pytest.raises(SystemExit) as ended, explained():
        raise error
    first, *rest = str(ended.value).splitlines()
    assert first.startswith(f"error: {message}")
    assert rest == ["(set JAXIQA_TRACEBACK=1 to see where)"]


def test_bugs_keep_their_traceback():
    with pytest.raises(TypeError), explained():
        raise TypeError("unsupported operand")


def test_ctrl_c_prints_how_to_resume(capsys):
    with pytest.raises(SystemExit) as ended, explained("the same command goes on"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped; the same command goes on\n"


def test_a_user_without_a_home_has_no_cache_and_no_error(monkeypatch):
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    set_up = {}
    monkeypatch.setattr(runtime.Path, "home", no_home)
    monkeypatch.setattr("jax.config.update", lambda name, value: set_up.update({name: value}))
    runtime.start_jax()
    assert set_up == {}
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    runtime.start_jax()
    assert set_up == {"jax_compilation_cache_dir": "/caches/jaxiqa/xla"}
