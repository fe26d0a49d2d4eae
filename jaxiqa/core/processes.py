"""Several processes of one training, each with its own devices: `jax.distributed`, and what they tell one another.

In a program of one process, every function here returns its argument or the result of its argument.
"""

import hashlib
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxiqa.core.files import locked, write_text

T = TypeVar("T")
SHUTDOWN = 20
"""Seconds that a process waits for the others when it ends; after them it ends those that still wait for it."""


class OtherProcessError(ValueError):
    """Another process has failed or ended; its own message says why."""


def join(address: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Connect this process with the others; call it before anything else uses JAX.

    Args:
        address: HOST:PORT of process 0, for explicit processes. None: JAX finds all three, under Slurm, in Kubernetes
            and on TPU pods.
        count: number of processes.
        index: number of this one, from 0.

    Raises:
        ValueError: nothing was found, or the others did not come in five minutes.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would ignore SIGTERM outside the loop of a training
    try:
        jax.distributed.initialize(address, count, index, shutdown_timeout_seconds=SHUTDOWN)
    except (ValueError, RuntimeError) as error:
        if address is None:
            raise ValueError(
                f"--distributed: JAX finds no Slurm, Kubernetes or TPU pod here ({error}); "
                "give --coordinator HOST:PORT --processes N --process I instead"
            ) from error
        raise ValueError(f"the {count} processes did not meet at {address}: {error}") from error
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise ValueError(f"the processes have {[*counts.values()]} devices; give each the same number")
    # Gloo connects processes with their first collective, which all must reach within 30 s: so not after compilation.
    gathered(np.int32(jax.process_index()))
    _sum_over_devices()


def is_first() -> bool:
    """Return whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


def gathered(value: Any) -> np.ndarray:
    """Return the arrays of all processes, which have one shape and type, stacked in the order of processes."""
    value = np.asarray(value)
    if jax.process_count() == 1:
        return value[None]
    from jax.experimental.multihost_utils import process_allgather

    raw = process_allgather(np.frombuffer(value.tobytes(), np.uint8))  # bytes: JAX would make float64 float32
    return np.frombuffer(raw.tobytes(), value.dtype).reshape(jax.process_count(), *value.shape)


def from_first(tree: Any) -> Any:
    """Return the arrays of process 0, bit for bit; those of the others only give shapes and types."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(jax.numpy.asarray(leaf)) for leaf in leaves]
    sent = broadcast_one_to_all([np.frombuffer(array.tobytes(), np.uint8) for array in arrays])
    came = [
        np.frombuffer(raw.tobytes(), array.dtype).reshape(array.shape) for raw, array in zip(sent, arrays, strict=True)
    ]
    return jax.tree.unflatten(structure, [jax.numpy.asarray(array) for array in came])


def first_does(work: Callable[[], T]) -> T:
    """Let process 0 alone call ``work``, and return its result on all.

    Raises:
        OtherProcessError: it failed, on all processes but the first, which raises its own error.

    >>> first_does(lambda: {"a": (1, 2)})
    {'a': (1, 2)}
    """
    if jax.process_count() == 1:
        return work()
    result, failure = None, None
    if is_first():
        try:
            result = work()
        except BaseException as error:
            failure = error
    content = pickle.dumps((failure is None, result))
    size = int(from_first(np.int32(2 ** max(10, len(content).bit_length()))))  # few sizes, few programs to compile
    sent = np.frombuffer(content.ljust(size, b"\0")[:size], np.uint8)
    fine, result = pickle.loads(np.asarray(from_first(sent)).tobytes())
    if failure is not None:
        raise failure
    if not fine:
        raise OtherProcessError("process 0 failed")
    return result


def in_turn(compute: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yield ``compute(0)``, …, ``compute(count - 1)`` on all processes, each of which computes its share.

    Args:
        compute: returns arrays of one shape and type.
        count: number of calls.

    >>> [int(value) for value in in_turn(lambda number: np.array(number**2), 4)]
    [0, 1, 4, 9]
    """
    processes = jax.process_count()
    for first in range(0, count, processes):
        own = compute(min(first + jax.process_index(), count - 1))
        yield from gathered(own)[: count - first]


def local(tree: Any) -> Any:
    """Return the arrays of a tree as arrays of this process, if they are the same on all devices."""

    def here(leaf: Any) -> Any:
        away = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return leaf.addressable_data(0) if away else leaf

    return jax.tree.map(here, tree)


def check_same(what: str, text: str) -> None:
    """Raise ``ValueError`` on all processes unless all have the same text; ``what`` names it."""
    if jax.process_count() == 1:
        return
    digests = gathered(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
    if other := [index for index, digest in enumerate(digests) if (digest != digests[0]).any()]:
        raise ValueError(f"{what} of process {other[0]} differs from that of process 0; start all with the same")


def check_shared(folder: Path) -> None:
    """Raise ``ValueError`` unless all processes see the files of process 0 in ``folder``."""
    if jax.process_count() == 1:
        return
    token = folder / first_does(lambda: f".seen-by-all.{np.random.default_rng().integers(2**62)}")
    first_does(lambda: write_text(token, ""))
    seen = gathered(np.int32(token.exists())).tolist()
    first_does(lambda: token.unlink())
    if not all(seen):
        raise ValueError(
            f"process {seen.index(0)} does not see the files of process 0 in {folder}; use a folder that all share"
        )


@contextmanager
def locked_by_first(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Let process 0 hold the lock of a folder (`jaxiqa.core.files.locked`) for all."""
    with ExitStack() as stack:
        first_does(lambda: stack.enter_context(locked(folder, wait=wait)))
        yield


def has_lost(error: BaseException) -> bool:
    """Return whether an error says that another process has ended.

    >>> has_lost(ValueError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer")), has_lost(ValueError("mos"))
    (True, False)
    """
    return bool(re.search(r"Gloo|NCCL|coordination service|heartbeat|closed by peer", str(error)))


def _sum_over_devices() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    ones = jax.make_array_from_process_local_data(sharding, np.ones(jax.local_device_count(), np.float32))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    jax.block_until_ready(jax.jit(lambda x: x.sum(), out_shardings=whole)(ones))
