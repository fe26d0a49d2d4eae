"""Data parallelism: one step function over all local devices. The only file that knows pmap and shard_map."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxiqa.core.checks import check_choice

AXIS = "data"
"""Name of the device axis that collectives inside a step refer to."""


def data_parallel(step: Callable, *, backend: str = "pmap", devices: list | None = None) -> Callable:
    """Run ``step(state, constants, batch) -> (state, metrics)`` on every device, each with its share of the batch.

    ``state`` and ``constants`` are the same on all devices and come back as single arrays; every leaf of ``batch``
    is divided along its first axis. Inside, ``step`` takes means over `AXIS` of its loss and of its gradients: the
    one style that is right under both back ends.

    Args:
        step: pure function, written for one device's share.
        backend: ``"pmap"`` or ``"shard_map"``; the results agree to rounding.
        devices: the devices to use; all local ones by default.

    Returns:
        A compiled function with the same arguments. ``state`` is donated. ``ValueError`` if a batch cannot be
        divided evenly.
    """
    check_choice("backend", backend, ["pmap", "shard_map"])
    devices = list(devices or jax.local_devices())
    count = len(devices)
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
    placement = NamedSharding(mesh, everywhere)
    if backend == "pmap":
        parallel = jax.pmap(
            step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, devices=devices, donate_argnums=0
        )
    else:
        # Without the check of what varies: an attack's loop starts from constants, which it would not let vary later.
        specs = (everywhere, everywhere, shared)
        mapped = jax.shard_map(step, mesh=mesh, check_vma=False, in_specs=specs, out_specs=everywhere)
        parallel = jax.jit(mapped, donate_argnums=0)

    def place(tree: Any) -> Any:
        """Every leaf where a step leaves it: a new one elsewhere would make XLA compile the step once more."""
        there = lambda leaf: getattr(leaf, "sharding", None) == placement  # noqa: E731
        return jax.tree.map(lambda leaf: leaf if there(leaf) else jax.device_put(leaf, placement), tree)

    latest: tuple[Any, Any] = (None, None)  # constants, and what `place` made of them

    def run(state: Any, constants: Any, batch: Any) -> Any:
        nonlocal latest
        size = len(jax.tree.leaves(batch)[0])
        if size % count:
            raise ValueError(f"batch_size={size} cannot be divided among {count} devices; choose a multiple of {count}")
        if backend == "pmap":
            batch = jax.tree.map(lambda x: np.reshape(x, (count, size // count, *x.shape[1:])), batch)
        if latest[0] is not constants:
            latest = constants, place(constants)
        return parallel(place(state), latest[1], batch)

    return run
