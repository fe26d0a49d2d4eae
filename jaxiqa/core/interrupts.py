"""Ctrl-C where `jaxiqa.cli.runtime.explained` cannot answer it: while a program still imports, and inside callbacks."""

import os
import signal
import sys
import threading
from _thread import interrupt_main
from types import TracebackType

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def quiet() -> None:
    """From now on a Ctrl-C that nothing catches ends the process with one line in place of a traceback.

    Python ignores exceptions in destructors and in callbacks of the garbage collector, such as JAX has one. A Ctrl-C
    that falls into one is given again a little later.
    """
    sys.excepthook, sys.unraisablehook = _uncaught, _ignored


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt) or os.environ.get("JAXIQA_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
        return
    print("\nstopped before anything was done; run the same command again", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # no further Ctrl-C can fall into the end of the interpreter


def _ignored(about: "sys.UnraisableHookArgs") -> None:
    if not issubclass(about.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(about)
        return
    again = threading.Timer(0.05, _again)
    again.daemon = True
    again.start()


def _again() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:  # which also wakes a main thread that waits
        signal.pthread_kill(main, signal.SIGINT)
    else:
        interrupt_main()
