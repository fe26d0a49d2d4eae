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
    for layer, item in group.items():
        paths: list[str] = []
        if isinstance(item, h5py.Group):
            item.visititems(
                lambda path, inner, paths=paths: paths.append(path) if isinstance(inner, h5py.Dataset) else None
            )
        last = [path.rpartition("/")[2] for path in paths]
        for path, name in zip(paths, last, strict=True):
            if item[path].dtype.kind not in "fiu":
                continue
            if "weight_names" in item.attrs:  # Keras 2: a layer, whose arrays repeat its name in one way or another
                name = f"{layer}/{name}" if last.count(name) == 1 else path
            else:
                name = f"{layer}/{path}"
            arrays[name.removesuffix(":0").replace("/", ".")] = np.asarray(item[path][()])
    return arrays
