"""What the scripts show and set up: the console, progress bars, and JAX's compilation cache."""

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()
"""Results, on standard output."""

messages = Console(stderr=True)
"""Progress, counts and faults, on standard error."""

LINE_SECONDS = 60.0
INTERRUPTED = 130

MENDS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; change its permissions or choose another path",
    errno.EPERM: "permission denied; change its permissions or choose another path",
    errno.ENOTDIR: "a file is where a folder should be; move it or choose another path",
    errno.EEXIST: "a file is where a folder should be; move it or choose another path",
    errno.EISDIR: "a folder is where a file should be; choose another name",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.ELOOP: "its links lead round in a circle; mend the link or choose another path",
}


@contextmanager
def explained(interrupted: str = "run the same command again to go on") -> Iterator[None]:
    """End with the message alone where the message says what is wrong; other errors keep their traceback.

    Args:
        interrupted: what is said after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("JAXIQA_TRACEBACK"):
            raise
        print(f"\nstopped; {interrupted}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of a pipe, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except Exception as error:
        message = explanation(error)
        if message is None or os.environ.get("JAXIQA_TRACEBACK"):
            raise
        raise SystemExit(f"error: {message}\n(set JAXIQA_TRACEBACK=1 to see where)") from None


def explanation(error: BaseException) -> str | None:
    """What to show a user in place of a traceback; None for an error that only a traceback explains.

    >>> explanation(IsADirectoryError(errno.EISDIR, "Is a directory", "scores"))
    'scores: a folder is where a file should be; choose another name'
    """
    if is_out_of_memory(error):
        return "out of memory; use a smaller batch size, smaller images or a machine with more memory"
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return f"{error.filename}: {MENDS.get(error.errno) or error.strerror}"
    if isinstance(error, OSError) and error.errno in MENDS:
        return MENDS[error.errno]
    if isinstance(error, ValueError | OSError | ImportError | FloatingPointError):
        return str(error) or type(error).__name__
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or XLA could not get the memory that it asked for."""
    xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (xla and "RESOURCE_EXHAUSTED" in str(error))


def say(text: str) -> None:
    """A line of results, as it is: brackets in names are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line on standard error, as it is."""
    messages.print(text, markup=False, highlight=False, soft_wrap=True)


def shown(name: object) -> str:
    """A name on one line that every terminal takes: control characters and broken encodings are escaped.

    >>> shown("a\\nb.png")
    'a\\\\nb.png'
    """
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def start_jax() -> None:
    """Keep compiled programs between runs, under $JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    Where there is neither, as for a user without a home, programs are compiled anew in every run.
    """
    import jax

    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))]
    )
    # Orbax remarks on every save that is waited for, and prints the traceback of each error that it also raises.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:
            return
        jax.config.update("jax_compilation_cache_dir", str(caches / "jaxiqa" / "xla"))


def device_name() -> str:
    """What the numbers were measured on, such as "2 x NVIDIA H100" or "CPU, 8 cores"."""
    import jax

    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return f"CPU, {os.cpu_count()} cores, jax {jax.__version__}"
    return f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}"


@contextmanager
def progress_bar(what: str, unit: str = "") -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time left; in a log file, a line a minute. Yields ``update(done, total, note)``."""
    if not messages.is_terminal:
        yield _lines(what, unit)
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit, markup=False), TextColumn("{task.fields[note]}", markup=False)]
    columns += [TimeRemainingColumn(compact=True)]
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total, note="": progress.update(task, completed=done, total=total, note=note)


def _lines(what: str, unit: str) -> Callable[[int, int, str], None]:
    began = said = time.monotonic()
    first: int | None = None  # what an earlier run had done says nothing of this one's pace

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal said, first
        now = time.monotonic()
        first = done if first is None else first
        if now - said < LINE_SECONDS or done >= total:
            return
        said = now
        left = f", {(now - began) / (done - first) * (total - done) / 60:.0f} minutes left" if done > first else ""
        line = f"{what}: {done} of {total} {unit}{left}{note and f', {note}'}"
        messages.print(line, highlight=False, markup=False, soft_wrap=True)

    return update
