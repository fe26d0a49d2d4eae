"""Keras' HDF5 files, of weights or of whole models, through the optional package h5py."""

from pathlib import Path
from typing import Any

import numpy as np


def read_h5(path: Path) -> dict[str, Any]:
    """Arrays by the names that Keras gave them, ``conv1/kernel:0`` as ``conv1.kernel``.

    A whole model's weights stand under ``model_weights``, beside what else it holds. A file of Keras 3 names arrays by
    number (``layers.conv2d.vars.0``).

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"reading {str(path)!r} needs h5py: pip install h5py, or the extra jaxiqa[h5]") from error
    try:
        with h5py.File(path, "r") as file:
            if "model_weights" not in file:
                return _arrays(file, h5py)
            return {name: _arrays(group, h5py) for name, group in file.items() if isinstance(group, h5py.Group)}
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"not a whole HDF5 file: {error}") from error


def _arrays(group: Any, h5py: Any) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}

    def collect(path: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
            return
        layer, _, inner = path.partition("/")
        # Keras 2 repeats a layer's name: the group of each layer lists the full names of what is in it.
        name = inner if inner and "weight_names" in group[layer].attrs else path
        arrays[name.removesuffix(":0").replace("/", ".")] = np.asarray(item[()])

    group.visititems(collect)
    return arrays
