"""Devices: names, free memory, and how many images or strengths fit into memory at once."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn

SHARE = 0.7
"""Share of the free memory that is used for planning: compilers reorder, and other programs use the machine too."""

LARGEST = 64
"""Largest batch; larger batches are not faster."""


def gradient_bytes(score_fn: ScoreFn, images: Any) -> int:
    """Return the temporary bytes of one input gradient of this batch, as XLA counts them; compile, but do not run.

    ``images`` may be a `jax.ShapeDtypeStruct`.

    >>> gradient_bytes(lambda x: (x**2).sum((1, 2, 3)), jnp.zeros((2, 8, 8, 3))) >= 0
    True
    """
    analysis = _gradient.lower(as_pytree(score_fn), images).compile().memory_analysis()
    assert analysis is not None  # only backends of others give none
    return analysis.temp_size_in_bytes


@jax.jit
def _gradient(score_fn: ScoreFn, images: Images) -> Images:
    return jax.grad(lambda x: checked_scores(score_fn, x).sum())(images)


def free_bytes(*, devices: int = 1) -> int:
    """Return the free bytes of one device: of its own memory or, if it has none, of the machine's memory.

    A process that may use only some of the machine's cores gets this share of its memory.

    Args:
        devices: number of devices in use, among which the machine's memory is divided.

    >>> free_bytes() > free_bytes(devices=4) > 0
    True
    """
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    share = 1.0
    if hasattr(os, "sched_getaffinity"):  # one of several processes that share the machine has some of its cores
        share = len(os.sched_getaffinity(0)) / (os.cpu_count() or 1)
    return int(share * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // devices


def fitting_batch(score_fn: ScoreFn, size: tuple[int, int, int], *, available: int | None = None) -> int:
    """Return the largest batch whose gradient fits into memory: a power of two up to `LARGEST`.

    Args:
        score_fn: the metric.
        size: height, width and channels of an image.
        available: available bytes; `SHARE` of `free_bytes` by default.

    Raises:
        ValueError: a single image does not fit.

    >>> fitting_batch(lambda x: jnp.tanh(x).sum((1, 2, 3)), (8, 8, 3), available=10**9)
    64
    """
    available = int(SHARE * free_bytes()) if available is None else available
    needed = gradient_bytes(score_fn, jax.ShapeDtypeStruct((1, *size), np.float32)) + 16 * int(np.prod(size))
    if needed > available:
        raise ValueError(
            f"one image of {size} needs {needed / 2**20:.0f} MiB of memory; {available / 2**20:.0f} MiB are available"
        )
    return min(LARGEST, 2 ** int(np.log2(available / needed)))


def fitting_chunk(score_fn: ScoreFn, images: Images, strengths: int) -> int:
    """Return how many strengths of a sweep fit into memory at once, at least one."""
    needed = max(1, gradient_bytes(score_fn, jax.ShapeDtypeStruct(images.shape, jnp.float32)))
    return int(np.clip(SHARE * free_bytes() // needed, 1, strengths))


def device_name() -> str:
    """Return the name of the devices and the version of JAX, such as "CPU, 8 cores, jax 0.10.1"."""
    import jax

    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return f"CPU, {os.cpu_count()} cores, jax {jax.__version__}"
    return f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}"
