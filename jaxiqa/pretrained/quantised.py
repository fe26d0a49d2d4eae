"""Kernels in few bytes: large ones as 8-bit integers with a scale per output channel, small ones as float16."""

from collections.abc import Collection, Mapping

import numpy as np

SCALE = ":scale"
"""Suffix of the array that holds the scales of another array."""
LEAST = 20_000
"""Smaller kernels are float16: depthwise ones have few values per scale, and rounding them costs the most accuracy."""
LEVELS = 127


def quantise(arrays: Mapping[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the arrays, those of ``names`` as int8 with an array ``NAME:scale`` each, or float16 if they are small.

    q = round(w / s), s = max |w| / 127 over all but the last axis; small: fewer than `LEAST` values.

    Raises:
        ValueError: an array of ``names`` has values that are not finite, or too large for float16.

    >>> found = quantise({"kernel": np.linspace(-2, 2, 30_000, dtype=np.float32).reshape(-1, 2)}, ["kernel"])
    >>> found["kernel"].dtype.name, found["kernel:scale"].shape
    ('int8', (2,))
    """
    stored = {}
    for name, array in arrays.items():
        if name not in names:
            stored[name] = array
            continue
        if not (np.abs(array) <= np.finfo(np.float16).max).all():
            raise ValueError(f"{name} has values that are not finite, or too large for float16")
        if array.size < LEAST:
            stored[name] = array.astype(np.float16)
            continue
        largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
        scale = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
        stored[name] = np.round(array / scale).astype(np.int8)
        stored[name + SCALE] = scale
    return stored


def restore(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what `quantise` was given, up to rounding: w = q · s; float16 becomes float32, others are unchanged.

    Raises:
        ValueError: a scale has no array of integers, or does not fit it.

    >>> restore({"kernel": np.array([[127, -64]], np.int8), "kernel:scale": np.array([0.1, 1], np.float32)})["kernel"]
    array([[ 12.7, -64. ]], dtype=float32)
    """
    kept = {name: array for name, array in stored.items() if not name.endswith(SCALE)}
    arrays = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in kept.items()}
    for name in stored.keys() - arrays.keys():
        scale, kernel = stored[name], arrays.get(name.removesuffix(SCALE))
        if kernel is None or kernel.dtype != np.int8 or scale.shape != kernel.shape[-1:]:
            raise ValueError(f"{name} {scale.shape} belongs to no array of 8-bit integers with as many channels")
        arrays[name.removesuffix(SCALE)] = (kernel * scale).astype(np.float32)
    return arrays
