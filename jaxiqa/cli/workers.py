"""Options of programs whose work Ray's workers may compute, and the start and end of Ray."""

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

HELP = """Several devices (docs/scale.md): --workers N computes in N processes, each with a GPU or TPU of this machine
or, if there is none, a share of its cores. --ray ADDRESS (HOST:PORT, or auto) uses those of a Ray cluster, all or N."""

FLAGS = ("--workers", "--ray")


@dataclass(frozen=True)
class Pool:
    """What the options of `HELP` say."""

    workers: int | None = None
    address: str | None = None


def take_workers(arguments: Sequence[str]) -> tuple[list[str], Pool | None]:
    """Remove the options of `HELP` from a command line; None without them.

    >>> take_workers(["--seeds", "0", "--workers=2", "--ray", "10.0.0.1:6379"])
    (['--seeds', '0'], Pool(workers=2, address='10.0.0.1:6379'))
    >>> take_workers(["--seeds", "0"])
    (['--seeds', '0'], None)

    Raises:
        ValueError: an option lacks its value, is given twice or has a wrong one; the message names it.
    """
    rest: list[str] = []
    given: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        flag, equals, text = word.partition("=")
        if flag not in FLAGS:
            rest.append(word)
        elif flag in given:
            raise ValueError(f"{flag} is given twice")
        else:
            given[flag] = text if equals else next(words, "")
    if not given:
        return rest, None
    count, address = given.get("--workers"), given.get("--ray")
    if count is not None and (not count.isdecimal() or int(count) < 1):
        raise ValueError(f"--workers {count!r}; expected a whole number of at least 1")
    if address is not None and address != "auto" and not re.fullmatch(r"[^\s:/]+:\d+", address):
        raise ValueError(
            f"--ray {address!r}; write HOST:PORT, such as 10.0.0.1:6379, or auto on a machine of the cluster"
        )
    return rest, Pool(None if count is None else int(count), address)


@contextmanager
def computing(pool: Pool | None) -> Iterator[Any]:
    """Yield what computes units: this process without a pool, else workers of Ray, which end with the block.

    With workers, this process uses only the CPU. Call it before JAX is used.

    Raises:
        ValueError: Ray is not installed, the address does not answer, or there are too few devices.
    """
    from jaxiqa.core.workers import Workers, alone, places

    if pool is None:
        yield alone
        return
    import jax

    from jaxiqa.core.progress import note

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("--workers and --ray need Ray: pip install 'jaxiqa[ray]'") from error
    accelerators = os.environ.get("JAX_PLATFORMS", "") != "cpu"
    jax.config.update("jax_platforms", "cpu")
    with suppress(AttributeError):  # Ray prints every death of a worker on standard output; we note it once
        ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if pool.address is None:
        ray.init("local", include_dashboard=False, **quiet)
    else:
        try:
            if pool.address != "auto":  # Ray would try for a minute
                host, _, port = pool.address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(pool.address, **quiet)
        except (OSError, RuntimeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"--ray {pool.address}: no Ray cluster answers ({str(error).splitlines()[0]}); start it by `ray start` "
                "on this machine too, and give all machines one token: docs/scale.md"
            ) from error
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        yield Workers(places(alive, pool.workers, accelerators=accelerators), note)
    finally:
        ray.shutdown()
