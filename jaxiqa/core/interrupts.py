"""Ctrl-C where `jaxiqa.cli.runtime.explained` cannot catch it: during imports and inside callbacks."""

import os
import signal
import sys
import threading
from _thread import interrupt_main
from types import TracebackType

INTERRUPTED = 130
"""The exit status after Ctrl-C, as in shells."""


def quiet() -> None:
    """Install hooks: an uncaught Ctrl-C ends the process with one line instead of a traceback.

    Python ignores exceptions in destructors and in callbacks of the garbage collector (JAX has such a callback). A
    Ctrl-C in one of them is sent again 0.05 s later.
    """
    sys.excepthook, sys.unraisablehook = _uncaught, _ignored


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt) or os.environ.get("JAXIQA_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
        return
    print("\nstopped before anything was done; run the same command again", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # so that another Ctrl-C cannot disturb the end of the interpreter


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
