"""Data parallelism: one step function over all devices, of all processes. The only file with pmap and shard_map."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxiqa.core.checks import check_choice
from jaxiqa.core.processes import from_first

AXIS = "data"
"""Name of the device axis for collectives inside a step."""

LAG = 2
"""Steps after which all processes know of a signal that one of them got: reading a step's result at once would let the
devices wait for the host."""


def data_parallel(step: Callable, *, backend: str = "pmap", devices: list | None = None) -> Callable:
    """Run ``step(state, constants, batch) -> (state, metrics)`` on every device, each with its share of the batch.

    ``state`` and ``constants`` are the same on all devices and are returned as single arrays; every leaf of ``batch``
    is split along its first axis. ``step`` takes means over `AXIS` of its loss and of its gradients: the only style
    that is correct in both back ends.

    Over several processes, ``batch`` is this process's share of the batch, in the order of processes; ``state`` and
    ``constants`` are those of process 0.

    Args:
        step: pure function for one device's share.
        backend: ``"pmap"`` or ``"shard_map"``; their results agree up to rounding. ``"pmap"`` is for one process.
        devices: the devices to use; all by default.

    Returns:
        A compiled function with the same arguments; it donates ``state``, and raises ``ValueError`` if a batch cannot
        be split evenly.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: device.process_index)
    count, processes = len(devices), len({device.process_index for device in devices})
    parallel, mesh = parallel_program(step, backend=backend, devices=devices)
    placement, shared = NamedSharding(mesh, PartitionSpec()), PartitionSpec(AXIS)

    def place(tree: Any) -> Any:
        """Move every leaf to where a step leaves it: from elsewhere, XLA would compile the step once more."""
        there = lambda leaf: getattr(leaf, "sharding", None) == placement  # noqa: E731
        if processes == 1:
            return jax.tree.map(lambda leaf: leaf if there(leaf) else jax.device_put(leaf, placement), tree)
        moved = iter(from_first([leaf for leaf in jax.tree.leaves(tree) if not there(leaf)]))  # equal on all processes
        global_array = lambda: jax.make_array_from_process_local_data(placement, np.asarray(next(moved)))  # noqa: E731
        return jax.tree.map(lambda leaf: leaf if there(leaf) else global_array(), tree)

    latest: tuple[Any, Any] = (None, None)  # constants, and `place` of them

    def run(state: Any, constants: Any, batch: Any) -> Any:
        nonlocal latest
        size = len(jax.tree.leaves(batch)[0]) * processes
        if size % count:
            raise ValueError(f"batch_size={size} cannot be divided among {count} devices; choose a multiple of {count}")
        if backend == "pmap":
            batch = jax.tree.map(lambda x: np.reshape(x, (count, size // count, *x.shape[1:])), batch)
        elif processes > 1:
            whole = NamedSharding(mesh, shared)
            batch = jax.tree.map(lambda x: jax.make_array_from_process_local_data(whole, np.asarray(x)), batch)
        if latest[0] is not constants:
            latest = constants, place(constants)
        return parallel(place(state), latest[1], batch)

    return run


def parallel_program(step: Callable, *, backend: str, devices: list) -> tuple[Any, Mesh]:
    """Return the jitted program of `data_parallel`, to run or to compile, and its mesh.

    Args:
        step, backend: as for `data_parallel`.
        devices: the devices; also those of a `jax.experimental.topologies` description, for which one can only compile.

    Returns:
        ``program(state, constants, batch)`` and the mesh. With ``"pmap"``, every leaf of ``batch`` has a first axis of
        devices; with ``"shard_map"``, its first axis is that of the whole batch.

    Raises:
        ValueError: the backend is unknown, or ``"pmap"`` over several processes.
    """
    check_choice("backend", backend, ["pmap", "shard_map"])
    check_backend(backend)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    if backend == "pmap":
        axes = (None, None, 0)
        program = jax.pmap(step, AXIS, in_axes=axes, out_axes=None, devices=devices, donate_argnums=0)
        return program, mesh
    # Without check_vma: an attack's loop starts from constants, which that check does not allow to vary later.
    everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
    specs = (everywhere, everywhere, shared)
    mapped = jax.shard_map(step, mesh=mesh, check_vma=False, in_specs=specs, out_specs=everywhere)
    return jax.jit(mapped, donate_argnums=0), mesh


def check_backend(backend: str, name: str = "backend") -> None:
    """Raise ``ValueError`` for ``"pmap"`` over several processes; ``name`` is that of the option or field."""
    if backend == "pmap" and jax.process_count() > 1:
        raise ValueError(
            f"{name}='pmap' is for the devices of one process, and there are {jax.process_count()}; choose 'shard_map'"
        )


def stoppable(step: Callable, *, backend: str = "pmap", devices: list | None = None) -> Callable:
    """Return `data_parallel` of ``step`` that all processes can leave after the same step.

    Args:
        step: ``step(state, constants, batch) -> (state, loss)``; ``batch`` is a dict.
        backend, devices: as for `data_parallel`.

    Returns:
        ``run(state, constants, batch, signals) -> (state, loss, signal)``. ``signals`` are the numbers of the signals
        that this process got. ``signal`` is the largest of all processes `LAG` steps ago; in one process, of those
        that came until now. 0: none.
    """
    if jax.process_count() == 1:
        alone = data_parallel(step, backend=backend, devices=devices)
        return lambda state, constants, batch, signals: (*alone(state, constants, batch), max(signals, default=0))

    # In the step's own program: two programs at once might mix up their messages between processes.
    def telling(state: Any, constants: Any, batch: Any) -> Any:
        own = {name: value for name, value in batch.items() if name != "signal"}
        state, value = step(state, constants, own)
        return state, (value, jax.lax.pmax(jnp.max(batch["signal"]), AXIS))

    together = data_parallel(telling, backend=backend, devices=devices)
    told: list[jax.Array] = []

    def run(state: Any, constants: Any, batch: Any, signals: Sequence[int]) -> tuple[Any, jax.Array, int]:
        size = len(jax.tree.leaves(batch)[0])
        signal = {"signal": np.full(size, max(signals, default=0), np.int32)}
        state, (value, largest) = together(state, constants, {**batch, **signal})
        told.append(largest)
        return state, value, int(told.pop(0)) if len(told) > LAG else 0

    return run
