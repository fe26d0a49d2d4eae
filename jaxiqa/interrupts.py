"""Ctrl-C while a program still imports what it needs, before `jaxiqa.terminal.explained` can answer it."""

import os
import sys
from types import TracebackType

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def quiet() -> None:
    """From now on a Ctrl-C that nothing catches ends the process with one line in place of a traceback."""
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt) or os.environ.get("JAXIQA_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
        return
    print("\nstopped before anything was done; run the same command again", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # no further Ctrl-C can fall into the end of the interpreter
