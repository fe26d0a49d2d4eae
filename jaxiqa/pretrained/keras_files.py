"""Read Keras' HDF5 files, of weights or of whole models, with the optional package h5py.

HDF5 can refer to other files of the machine, and can claim sizes without data. So only data in the file itself is read:
hard links, data sets that were written, and compressed ones after a check of their unpacked size.
"""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.pretrained.budget import Budget, check_arrays, check_depth
from jaxiqa.pretrained.torch_values import Opaque

FAULTS = (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError, MemoryError, zlib.error)


def read_h5(path: Path, budget: Budget) -> dict[str, Any]:
    """Return the arrays under Keras' names, ``conv1/kernel:0`` as ``conv1.kernel``.

    The weights of a whole model are under ``model_weights``. A file of Keras 3 names arrays by number
    (``layers.conv2d.vars.0``).

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file is damaged, refers to data outside itself, or unpacks to more than its budget.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"reading {str(path)!r} needs h5py: pip install h5py, or the extra jaxiqa[h5]") from error
    try:
        with h5py.File(path, "r") as file:
            items = dict(_members(file, "", h5py))
            if "model_weights" not in items:
                return _arrays(items, budget, h5py)
            return {
                name: _arrays(dict(_members(item, name, h5py)), budget, h5py)
                if isinstance(item, h5py.Group)
                else Opaque("a data set beside the groups")
                for name, item in items.items()
            }
    except FAULTS as error:
        raise ValueError(f"not a whole HDF5 file: {error}") from error


def _members(group: Any, where: str, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Yield the members of a group, by name.

    Raises:
        ValueError: a link leads to another place or to another file.
    """
    check_arrays(len(group), f"entries in {where or 'its root'!r}")
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = f"{getattr(link, 'filename', '')}:{link.path}" if hasattr(link, "path") else "?"
            raise ValueError(f"{where}/{name} is a link ({type(link).__name__}) to {target!r}, which is not followed")
        yield name, group[name]


def _arrays(items: dict[str, Any], budget: Budget, h5py: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for layer, item in items.items():
        if isinstance(item, h5py.Dataset):
            arrays[layer.removesuffix(":0").replace("/", ".")] = _read(item, layer, budget, h5py)
            continue
        found = list(_data_sets(item, "", budget, h5py)) if isinstance(item, h5py.Group) else []
        last = [path.rpartition("/")[2] for path, _ in found]
        for (path, data), name in zip(found, last, strict=True):
            if "weight_names" in item.attrs:  # Keras 2: a layer; the names of its arrays repeat the layer's name
                name = f"{layer}/{name}" if last.count(name) == 1 else path
            else:
                name = f"{layer}/{path}"
            name = name.removesuffix(":0").replace("/", ".")
            if name in arrays:
                raise ValueError(f"two arrays are called {name!r}")
            arrays[name] = _read(data, f"{layer}/{path}", budget, h5py)
            check_arrays(len(arrays))
    return arrays


def _data_sets(group: Any, where: str, budget: Budget, h5py: Any) -> Iterator[tuple[str, Any]]:
    check_depth(where.count("/") + 1)  # a group may contain itself
    for name, item in _members(group, f"{group.name}", h5py):
        budget.spend(steps=20, letters=len(where) + len(name))
        path = f"{where}/{name}" if where else name
        if isinstance(item, h5py.Group):
            yield from _data_sets(item, path, budget, h5py)
        elif isinstance(item, h5py.Dataset):
            yield path, item


def _read(data: Any, name: str, budget: Budget, h5py: Any) -> np.ndarray | Opaque:
    if data.external:
        raise ValueError(f"{name} keeps its numbers in another file, {data.external[0][0]!r}, which is not read")
    if data.is_virtual:
        raise ValueError(f"{name} is a virtual data set, a view of other files, which is not read")
    if data.dtype.kind not in "fiu" or data.shape is None:
        return Opaque(f"a data set of type {data.dtype}")
    size = math.prod(data.shape) * data.dtype.itemsize
    stored = data.id.get_storage_size()
    if size and not stored:
        raise ValueError(f"{name} {data.shape} claims {size:,} bytes and was never written")
    if stored > budget.size:
        raise ValueError(f"{name} claims {stored:,} bytes of a file that has {budget.size:,}")
    budget.spend(unpacked=size)
    if data.chunks:
        _check_chunks(data, name, budget, h5py)
    elif stored != size:
        raise ValueError(f"{name} has {stored:,} bytes, not {data.shape} x {data.dtype}")
    return np.asarray(data[()])


def _check_chunks(data: Any, name: str, budget: Budget, h5py: Any) -> None:
    """Check that all chunks exist, and that none unpacks to more than its size."""
    whole = math.prod(data.chunks) * data.dtype.itemsize
    budget.spend(unpacked=whole)
    kinds = {h5py.h5z.FILTER_SHUFFLE: 0, h5py.h5z.FILTER_DEFLATE: 1, h5py.h5z.FILTER_FLETCHER32: 2}
    plan = data.id.get_create_plist()
    filters = [plan.get_filter(place)[0] for place in range(plan.get_nfilters())]
    order = [kinds.get(number, -1) for number in filters]
    if -1 in order or sorted(set(order)) != order:
        raise ValueError(f"{name} is packed by the filters {filters}; only gzip, with shuffle and checksum, is read")
    count = data.id.get_num_chunks()
    expected = math.prod(math.ceil(side / chunk) for side, chunk in zip(data.shape, data.chunks, strict=True))
    if count != expected:
        raise ValueError(f"{name} has {count} chunks of {expected}; the others were never written")
    budget.spend(steps=20 * count)
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    for number in range(count):
        info = data.id.get_chunk_info(number)
        if info.size > budget.size:
            raise ValueError(f"{name} claims {info.size:,} bytes of a file that has {budget.size:,}")
        mask, packed = data.id.read_direct_chunk(info.chunk_offset)
        plain = bool(mask & 1 << filters.index(h5py.h5z.FILTER_DEFLATE))  # this chunk is not compressed
        if not plain and len(zlib.decompressobj().decompress(packed, whole + 1)) > whole:
            raise ValueError(f"{name} unpacks to more than its {whole:,} bytes")
