"""Data parallelism: one step function over all local devices. The only file with pmap and shard_map."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxiqa.core.checks import check_choice

AXIS = "data"
"""Name of the device axis for collectives inside a step."""


def data_parallel(step: Callable, *, backend: str = "pmap", devices: list | None = None) -> Callable:
    """Run ``step(state, constants, batch) -> (state, metrics)`` on every device, each with its share of the batch.

    ``state`` and ``constants`` are the same on all devices and are returned as single arrays; every leaf of ``batch``
    is split along its first axis. ``step`` takes means over `AXIS` of its loss and of its gradients: the only style
    that is correct in both back ends.

    Args:
        step: pure function for one device's share.
        backend: ``"pmap"`` or ``"shard_map"``; their results agree up to rounding.
        devices: the devices to use; all local ones by default.

    Returns:
        A compiled function with the same arguments; it donates ``state``, and raises ``ValueError`` if a batch cannot
        be split evenly.
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
        # Without check_vma: an attack's loop starts from constants, which that check does not allow to vary later.
        specs = (everywhere, everywhere, shared)
        mapped = jax.shard_map(step, mesh=mesh, check_vma=False, in_specs=specs, out_specs=everywhere)
        parallel = jax.jit(mapped, donate_argnums=0)

    def place(tree: Any) -> Any:
        """Move every leaf to where a step leaves it: from elsewhere, XLA would compile the step once more."""
        there = lambda leaf: getattr(leaf, "sharding", None) == placement  # noqa: E731
        return jax.tree.map(lambda leaf: leaf if there(leaf) else jax.device_put(leaf, placement), tree)

    latest: tuple[Any, Any] = (None, None)  # constants, and `place` of them

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
