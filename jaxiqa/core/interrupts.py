"""Ctrl-C and SIGTERM: where `jaxiqa.cli.runtime.explained` cannot catch them, and in loops that save before the end."""

import atexit
import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

INTERRUPTED = 130
"""The exit status after Ctrl-C, as in shells."""

_received: list[int] = []


def quiet() -> None:
    """Install hooks: an uncaught Ctrl-C ends the process with one line instead of a traceback.

    Python ignores exceptions in destructors and in callbacks of the garbage collector (JAX has such a callback). A
    Ctrl-C in one of them is sent again 0.05 s later. While Python ends, after all work is done, Ctrl-C does nothing;
    else the program would end by the signal although its result is complete. `raise_if_lost` finds one that compiled
    code has cleared.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook, sys.unraisablehook = _uncaught, _ignored
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # registered first, so it runs last


def _interrupt(number: int, frame: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def raise_if_lost() -> None:
    """Raise ``KeyboardInterrupt`` if Ctrl-C came and the program still goes on. To be called in long loops.

    Python raises it in the code that runs at that moment. If compiled code called that code, it may clear the error.
    """
    if _received:
        _received.clear()
        raise KeyboardInterrupt


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
    _received.clear()  # it comes again
    again = threading.Timer(0.05, _again)
    again.daemon = True
    again.start()


def _again() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:  # which also wakes a main thread that waits
        signal.pthread_kill(main, signal.SIGINT)
    else:
        interrupt_main()


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """Yield the list of SIGTERM and SIGINT received, so that the loop can save and exit; a second one ends it at once.

    Only the main thread can handle signals. If SIGINT is ignored or has another handler, it is not changed.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    watched = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
        watched.append(signal.SIGINT)
    before = {number: signal.getsignal(number) for number in watched}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        came.append(number)
        restore()

    for number in watched:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        restore()
