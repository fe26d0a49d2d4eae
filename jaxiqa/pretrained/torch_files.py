"""Read PyTorch's files without PyTorch: the zip format, the one before version 1.6, and plain pickles of arrays.

All three contain a pickle (`jaxiqa.pretrained.pickles`), whose calls are not executed; `jaxiqa.pretrained.torch_values`
interprets the few that stand for data.
"""

import io
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxiqa.pretrained import pickles
from jaxiqa.pretrained.budget import DEPTH, Budget
from jaxiqa.pretrained.pickles import Call, Global
from jaxiqa.pretrained.torch_values import Resolver, Storage
from jaxiqa.pretrained.zip_files import Archive

MAGIC = 0x1950A86A20F9469CFC6C
"""First value of a file in the older format."""

DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "UntypedStorage": np.dtype("u1"),
}


def read_archive(archive: Archive) -> Any:
    """Return the content of a file that `torch.save` wrote in version 1.6 or later.

    Raises:
        ValueError: the file is damaged, is a TorchScript program, or was written on a big-endian machine.
    """
    names = archive.names
    found = sorted((name for name in names if re.fullmatch(r"(.*/)?data\.pkl", name)), key=len)
    if not found:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(f"a zip file of {listed or 'nothing'} without PyTorch's data.pkl; unpack it first")
    root = found[0].removesuffix("data.pkl")
    if any(name.startswith(f"{root}code/") for name in names):
        raise ValueError("a TorchScript program; save its state_dict instead")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("written on a big-endian machine, which is not supported")
    storages: dict[str, Storage] = {}

    def persistent(reference: Any) -> Any:
        storage = _storage(reference, storages)
        if isinstance(storage, Storage) and storage.values is None:
            storage.fill(archive.read(f"{root}data/{storage.key}"))
        return storage

    return _resolved(pickles.load(io.BytesIO(archive.read(found[0])), persistent, archive.budget), archive.budget)


def read_pickle(path: Path, budget: Budget) -> Any:
    """Return the content of a file that `torch.save` wrote before version 1.6, or of a plain pickle.

    Raises:
        ValueError: the file is damaged, or was written on a big-endian machine.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _resolved(_pickle_content(content, budget), budget)


def _resolved(value: Any, budget: Budget) -> Any:
    resolve = Resolver(budget, lambda data: _pickle_content(io.BytesIO(data), budget))
    try:
        return resolve(value)
    except RecursionError as error:  # Python 3.11 counts more calls of a level than later ones
        raise ValueError(f"it is nested deeper than {DEPTH} levels, which is the limit") from error
    except pickles.FAULTS as error:
        raise ValueError(f"not a sound pickle: {error}") from error


def _pickle_content(content: Any, budget: Budget) -> Any:
    storages: dict[str, Storage] = {}
    value = pickles.load(content, budget=budget)
    if value != MAGIC:
        return value
    pickles.load(content, budget=budget)  # version of the format
    system = pickles.load(content, budget=budget)
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise ValueError("written on a big-endian machine, which is not supported")
    value = pickles.load(content, lambda reference: _storage(reference, storages), budget)
    for key in pickles.load(content, budget=budget):  # in this order: the count of numbers, then the numbers
        storage = storages.get(_key(key))
        if storage is None:
            raise ValueError(f"tensor data {key!r} that no tensor uses")
        (count,) = struct.unpack("<q", _exactly(content, 8))
        if count != storage.count:
            raise ValueError(f"tensor data {key!r} has {count} numbers, not {storage.count}")
        storage.fill(_exactly(content, count * storage.dtype.itemsize))
    return value


def _exactly(content: Any, size: int) -> bytes:
    data = content.read(size) if size >= 0 else b""
    if len(data) != size:
        raise ValueError("the file ends too early")
    return data


def _key(key: Any) -> str:
    if not isinstance(key, str | int):
        raise ValueError(f"tensor data that is named by a {type(key).__name__}, not by a text")
    return str(key)


def _storage(reference: Any, storages: dict[str, Storage]) -> Any:
    """Resolve a reference: ``("storage", type, key, device, count, view)`` or ``("module", class, ...)``."""
    match reference:
        case ("module", Global() as module, *_):
            return module
        case ("storage", Global() | str() as kind, key, _, int() as count, *view):
            name = kind.name if isinstance(kind, Global) else kind
            if name not in DTYPES:
                raise ValueError(f"tensors of type {name} are not supported")
            storage = storages.setdefault(_key(key), Storage(_key(key), DTYPES[name], count))
            if view and view[0] is not None:
                _, start, size = view[0]
                return Call(Global("torch", "storage_view"), (storage, start, size))
            return storage
    text = reference[:80] if isinstance(reference, str) else f"a {type(reference).__name__}"
    raise ValueError(f"an unknown reference to something outside the pickle: {text}")
