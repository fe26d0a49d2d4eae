"""Data parallelism: one step function over all local devices. The only file that knows pmap and shard_map."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from jaxiqa.checks import check_choice

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
    if backend == "pmap":
        parallel = jax.pmap(
            step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, devices=devices, donate_argnums=0
        )
    else:
        mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
        everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
        # Without the check of what varies: an attack's loop starts from constants, which it would not let vary later.
        specs = {"in_specs": (everywhere, everywhere, shared), "out_specs": everywhere}
        parallel = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs), donate_argnums=0)

    def run(state: Any, constants: Any, batch: Any) -> Any:
        size = len(jax.tree.leaves(batch)[0])
        if size % count:
            raise ValueError(f"batch_size={size} cannot be divided among {count} devices; choose a multiple of {count}")
        if backend == "pmap":
            batch = jax.tree.map(lambda x: np.reshape(x, (count, size // count, *x.shape[1:])), batch)
        return parallel(state, constants, batch)

    return run
