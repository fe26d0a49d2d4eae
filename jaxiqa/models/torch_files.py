"""PyTorch's files without PyTorch: the zip format, the one before version 1.6, and plain pickles of arrays.

All three hold a pickle (`jaxiqa.models.pickles`), whose calls stay uncalled; the few that stand for a tensor or an
array are understood here by name. Everything else becomes an `Opaque`.
"""

import io
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxiqa.models import pickles
from jaxiqa.models.pickles import Call, Global

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


@dataclass(frozen=True)
class Opaque:
    """Something in a file that is neither data nor a container of data."""

    what: str


@dataclass(eq=False)
class Storage:
    """A flat run of numbers; ``values`` is set when the part of the file that holds them is read."""

    key: str
    dtype: np.dtype
    count: int
    values: np.ndarray | None = None

    def fill(self, data: memoryview | bytes) -> None:
        """Take the numbers from their bytes."""
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"tensor data {self.key!r} has {len(data)} bytes, not {self.count} x {self.dtype}")
        self.values = np.frombuffer(data, self.dtype)


def read_zip(path: Path) -> Any:
    """The content of a file as `torch.save` writes it since version 1.6, or of an ``.npz``.

    Raises:
        ValueError: it is damaged, is a TorchScript program, or was written on a big-endian machine.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if names and all(name.endswith(".npy") for name in names):
                with np.load(path, allow_pickle=False) as arrays:
                    return dict(arrays)
            return _zip_content(archive, names)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, KeyError, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole zip file: {error}") from error


def _zip_content(archive: zipfile.ZipFile, names: list[str]) -> Any:
    found = sorted((name for name in names if re.fullmatch(r"(.*/)?data\.pkl", name)), key=len)
    if not found:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(f"a zip file of {listed or 'nothing'}, none of it PyTorch's data.pkl; unpack it first")
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

    return resolve(pickles.load(io.BytesIO(archive.read(found[0])), persistent))


def read_pickle(path: Path) -> Any:
    """The content of a file as `torch.save` wrote it before version 1.6, or of a plain pickle.

    Raises:
        ValueError: it is damaged, or was written on a big-endian machine.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return resolve(_pickle_content(content))


def _pickle_content(content: Any) -> Any:
    storages: dict[str, Storage] = {}
    value = pickles.load(content)
    if value != MAGIC:
        return value
    pickles.load(content)  # version of the format
    system = pickles.load(content)
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise ValueError("written on a big-endian machine, which is not supported")
    value = pickles.load(content, lambda reference: _storage(reference, storages))
    for key in pickles.load(content):  # the numbers follow, in this order: how many, then they themselves
        storage = storages.get(str(key))
        if storage is None:
            raise ValueError(f"tensor data {key!r} that no tensor uses")
        (count,) = struct.unpack("<q", _exactly(content, 8))
        if count != storage.count:
            raise ValueError(f"tensor data {key!r} has {count} numbers, not {storage.count}")
        storage.fill(_exactly(content, count * storage.dtype.itemsize))
    return value


def _exactly(content: Any, size: int) -> bytes:
    data = content.read(size)
    if len(data) != size:
        raise ValueError("the file ends too early")
    return data


def _storage(reference: Any, storages: dict[str, Storage]) -> Any:
    """What a reference stands for: ``("storage", type, key, device, count, view)`` or ``("module", class, ...)``."""
    match reference:
        case ("module", Global() as name, *_):
            return name
        case ("storage", Global() | str() as kind, key, _, int() as count, *view):
            name = kind.name if isinstance(kind, Global) else kind
            if name not in DTYPES:
                raise ValueError(f"tensors of type {name} are not supported")
            storage = storages.setdefault(str(key), Storage(str(key), DTYPES[name], count))
            if view and view[0] is not None:
                _, start, size = view[0]
                return Call(Global("torch", "storage_view"), (storage, start, size))
            return storage
    raise ValueError(f"an unknown reference to something outside the pickle: {str(reference)[:80]}")


def resolve(value: Any) -> Any:
    """Dicts by name, lists, numbers, texts, None, arrays and `Opaque`, made of what `pickles.load` returned."""
    done: dict[int, tuple[Any, Any]] = {}  # the value is kept, so that nothing else gets its id

    def of(value: Any) -> Any:
        if not isinstance(value, dict | list | tuple | Call):
            return value if isinstance(value, _PLAIN) else Opaque(str(value))
        if id(value) not in done:
            done[id(value)] = value, Opaque("a part of itself")
            done[id(value)] = value, _resolve(value, of)
        return done[id(value)][1]

    try:
        return of(value)
    except pickles.FAULTS as error:
        raise ValueError(f"not a sound pickle: {error}") from error


_PLAIN = (str, bytes, bytearray, bool, int, float, type(None), np.ndarray, np.dtype, Storage, Opaque)


def _resolve(value: Any, of: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {"..." if isinstance(key, pickles.Persistent) else str(key): of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [of(item) for item in value]
    if isinstance(value.function, Global):
        known = CALLS.get(value.function.name) if value.function.module in MODULES else None
        if known:
            return known(value, of)
    if isinstance(value.state, dict) and value.state.keys() & {"_parameters", "_buffers", "_modules"}:
        return _module(value.state, of)
    if value.items:
        return of(value.items)
    return Opaque(f"a call of {value.function}, not done")


def _module(state: dict[str, Any], of: Callable[[Any], Any]) -> dict[str, Any]:
    """The parts of a pickled `torch.nn.Module` that its state dict would have."""
    parts: dict[str, Any] = {}
    for kind in ("_parameters", "_buffers", "_modules"):
        members = of(state.get(kind) or {})
        passing = of(state.get("_non_persistent_buffers_set")) or []
        passing = passing if isinstance(passing, list) else []
        parts |= {name: member for name, member in members.items() if member is not None and name not in passing}
    return parts


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    if not isinstance(storage, np.ndarray):
        storage = storage.values
    numbers = (offset, *size, *stride)
    if storage is None or len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor without data, or of an impossible shape")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
        raise ValueError("a tensor reaches outside its data")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _tensor(call: Call, of: Callable[[Any], Any]) -> np.ndarray:
    return _view(*(of(argument) for argument in call.arguments[:4]))


def _tensor_of_type(call: Call, of: Callable[[Any], Any]) -> np.ndarray:
    storage, offset, size, stride, *_ = (of(argument) for argument in call.arguments[:4])
    name = call.arguments[6].name
    dtype = np.dtype(getattr(ml_dtypes, name, None) if name.startswith("float8") else name)
    return _view(storage.values.view(dtype), offset, size, stride)


def _first(call: Call, of: Callable[[Any], Any]) -> Any:
    return of(call.arguments[0])


def _from_type(call: Call, of: Callable[[Any], Any]) -> Any:
    function, _, arguments, _ = call.arguments
    return of(Call(function, arguments))


def _storage_view(call: Call, of: Callable[[Any], Any]) -> np.ndarray:
    storage, start, size = call.arguments
    return _view(storage, start, (size,), (1,))


def _nested(call: Call, of: Callable[[Any], Any]) -> Any:
    return of(_pickle_content(io.BytesIO(of(call.arguments[0]))))


def _dtype(call: Call, of: Callable[[Any], Any]) -> np.dtype | Opaque:
    name = of(call.arguments[0])
    if not isinstance(name, str) or not re.fullmatch(r"[biufc]\d{1,2}|\?", name):
        return Opaque(f"numbers of type {name}")
    order = call.state[1] if isinstance(call.state, tuple) and call.state[1] in ("<", ">") else "<"
    return np.dtype(name).newbyteorder(order)


def _bytes(call: Call, of: Callable[[Any], Any]) -> bytes:
    return call.arguments[0].encode("latin-1")  # how pickles of Python 2 hold bytes


def _array(call: Call, of: Callable[[Any], Any]) -> np.ndarray | Opaque:
    if not isinstance(call.state, tuple):
        return Opaque("an array without data")
    _, shape, dtype, fortran, data = map(of, call.state)
    return _numpy(data, dtype, shape, "F" if fortran else "C")


def _from_buffer(call: Call, of: Callable[[Any], Any]) -> np.ndarray | Opaque:
    return _numpy(*map(of, call.arguments))


def _scalar(call: Call, of: Callable[[Any], Any]) -> np.ndarray | Opaque:
    dtype, data = map(of, call.arguments)
    return _numpy(data, dtype, (), "C")


def _numpy(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray | Opaque:
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        return Opaque("an array of objects")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array's data do not fit its shape")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape, order=order)


MODULES = {"torch", "torch._utils", "torch._tensor", "torch.storage", "_codecs", "numpy"}
MODULES |= {f"{core}.{part}" for core in ("numpy.core", "numpy._core") for part in ("multiarray", "numeric")}
CALLS = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_of_type,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_from_type_v2": _from_type,
    "_load_from_bytes": _nested,
    "storage_view": _storage_view,
    "Size": _first,
    "dtype": _dtype,
    "encode": _bytes,
    "_reconstruct": _array,
    "_frombuffer": _from_buffer,
    "scalar": _scalar,
}
"""What a call by this name stands for. Each is a function of this file, none is the one that the pickle names."""
