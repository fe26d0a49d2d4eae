"""Shared parts of all programs: errors in one line, Ctrl-C, the compilation cache."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.logging import RichHandler

from jaxiqa.core.files import MENDS
from jaxiqa.core.interrupts import INTERRUPTED
from jaxiqa.core.progress import messages


@contextmanager
def explained(interrupted: str = "run the same command again to continue") -> Iterator[None]:
    """End the program with only the message of an error that explains itself; other errors keep their traceback.

    Args:
        interrupted: message after Ctrl-C, unless the ``KeyboardInterrupt`` has its own.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if os.environ.get("JAXIQA_TRACEBACK"):
            raise
        print(f"\nstopped; {str(error) or interrupted}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of a pipe, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except Exception as error:
        message = explanation(error)
        if message is None or os.environ.get("JAXIQA_TRACEBACK"):
            raise
        raise SystemExit(f"error: {message}\n(set JAXIQA_TRACEBACK=1 to see where)") from None


def explanation(error: BaseException) -> str | None:
    """Return the message to show instead of a traceback; None for an error that needs a traceback.

    >>> import errno
    >>> explanation(IsADirectoryError(errno.EISDIR, "Is a directory", "scores"))
    'scores: a folder is where a file should be; move it or choose another path'
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
    """Return whether Python or XLA could not allocate memory."""
    xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (xla and "RESOURCE_EXHAUSTED" in str(error))


def start_jax() -> None:
    """Set up logging and the cache of compiled programs, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    If there is neither, as for a user without a home folder, programs are compiled again in every run.
    """
    import jax

    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=messages)])
    # Orbax logs every save that is waited for, and the traceback of each error that it also raises.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:
            return
        jax.config.update("jax_compilation_cache_dir", str(caches / "jaxiqa" / "xla"))
