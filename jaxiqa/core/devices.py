"""The devices: their names, their memory, and how many images or strengths fit into it at once."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn

SHARE = 0.7
"""Share of the free memory that is planned with: compilers reorder, and others use the machine too."""

LARGEST = 64
"""Batches beyond this gain no speed."""


def gradient_bytes(score_fn: ScoreFn, images: Any) -> int:
    """Temporary bytes of one input gradient of this batch, by XLA's own count; compiles it, runs nothing.

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


def free_bytes() -> int:
    """Free bytes of the first device: of its own memory, or of the machine's where that is the device's.

    >>> free_bytes() > 0
    True
    """
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fitting_batch(score_fn: ScoreFn, size: tuple[int, int, int], *, available: int | None = None) -> int:
    """The largest power of two, up to `LARGEST`, of images whose gradient fits into memory at once.

    Args:
        score_fn: the metric.
        size: height, width and channels of an image.
        available: bytes to fit into; `SHARE` of `free_bytes` by default.

    Raises:
        ValueError: not even one image fits.

    >>> fitting_batch(lambda x: jnp.tanh(x).sum((1, 2, 3)), (8, 8, 3), available=10**9)
    64
    """
    available = int(SHARE * free_bytes()) if available is None else available
    needed = gradient_bytes(score_fn, jax.ShapeDtypeStruct((1, *size), np.float32)) + 16 * int(np.prod(size))
    if needed > available:
        raise ValueError(f"one image of {size} needs {needed / 2**20:.0f} MiB, only {available / 2**20:.0f} are free")
    return min(LARGEST, 2 ** int(np.log2(available / needed)))


def fitting_chunk(score_fn: ScoreFn, images: Images, strengths: int) -> int:
    """How many of the strengths of a sweep fit into memory at once, at least one."""
    needed = max(1, gradient_bytes(score_fn, jax.ShapeDtypeStruct(images.shape, jnp.float32)))
    return int(np.clip(SHARE * free_bytes() // needed, 1, strengths))


def device_name() -> str:
    """What the numbers were measured on, such as "2 x NVIDIA H100" or "CPU, 8 cores"."""
    import jax

    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return f"CPU, {os.cpu_count()} cores, jax {jax.__version__}"
    return f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}"
