"""Options of programs that run as several processes, and how such a process ends."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from jaxiqa.cli.runtime import explanation, start_jax

HELP = """Several processes (docs/processes.md): --distributed under Slurm, in Kubernetes and on TPU pods; elsewhere
--coordinator HOST:PORT --processes N --process I, where process I=0 is at HOST. Both need --parallel shard_map."""

FLAGS = ("--coordinator", "--processes", "--process")


@dataclass(frozen=True)
class Place:
    """The place of a process among others; without fields, JAX finds it."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def take_place(arguments: Sequence[str]) -> tuple[list[str], Place | None]:
    """Remove the options of `HELP` from a command line; None without them.

    >>> take_place(["--seeds", "0", "--coordinator=a:1234", "--processes", "2", "--process", "0"])
    (['--seeds', '0'], Place(coordinator='a:1234', processes=2, process=0))
    >>> take_place(["--distributed"]), take_place(["--seeds", "0"])
    (([], Place(coordinator=None, processes=None, process=None)), (['--seeds', '0'], None))

    Raises:
        ValueError: an option lacks its value or one of the others, or has a wrong one; the message names it.
    """
    rest: list[str] = []
    given: dict[str, str] = {}
    detect = False
    words = iter(arguments)
    for word in words:
        flag, equals, text = word.partition("=")
        if word == "--distributed":
            detect = True
        elif flag in FLAGS:
            given[flag] = text if equals else next(words, "")
        else:
            rest.append(word)
    if not given:
        return rest, Place() if detect else None
    if detect:
        raise ValueError(f"--distributed finds the processes itself; leave out {', '.join(given)}")
    if missing := [flag for flag in FLAGS if flag not in given]:
        raise ValueError(f"{', '.join(given)} without {', '.join(missing)}; give all three, or --distributed")
    address = given["--coordinator"]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator {address!r}; write HOST:PORT, such as 10.0.0.1:1234")
    count, index = (_whole(flag, given[flag]) for flag in FLAGS[1:])
    if count < 1:
        raise ValueError(f"--processes {count}; expected at least 1")
    if index >= count:
        raise ValueError(f"--process {index}; with --processes {count} expected 0 to {count - 1}")
    return rest, Place(address, count, index)


def _whole(flag: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{flag} {text!r}; expected a whole number")
    return int(text)


@contextmanager
def processes(place: Place | None) -> Iterator[None]:
    """Connect this process with the others; after an error of one, all end soon.

    Processes other than the first print nothing but errors. A process that fails gives the others time to print the
    same error, if it is one of all; those that wait for it are then ended by JAX.
    """
    if place is None:
        yield
        return
    from jaxiqa.core.processes import OtherProcessError, has_lost, is_first, join
    from jaxiqa.core.progress import console, messages

    start_jax()  # the cache of compiled programs is chosen with the first of them
    join(place.coordinator, place.processes, place.process)
    import jax

    console.quiet = messages.quiet = not is_first()
    who = f"process {jax.process_index()}"
    try:
        yield
    except Exception as error:
        lost = has_lost(error)
        if os.environ.get("JAXIQA_TRACEBACK") or not (lost or explanation(error)):
            traceback.print_exc()
        elif lost:
            print(
                f"{who}: error: another process has ended; saved steps are kept. Start all processes again, on any "
                "number that divides the batch",
                file=sys.stderr,
            )
        elif not isinstance(error, OtherProcessError):
            print(f"{who}: error: {explanation(error)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if not lost:
            with suppress(Exception):
                jax.distributed.shutdown()
        os._exit(1)
