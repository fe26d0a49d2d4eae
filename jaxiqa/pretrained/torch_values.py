"""Interpret the calls in a pickle of PyTorch or NumPy: tensors, arrays, and the parts of a module.

`jaxiqa.pretrained.pickles` executes no call. The few that stand for a tensor or an array are recognised here by name;
everything else becomes an `Opaque`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from jaxiqa.pretrained import pickles
from jaxiqa.pretrained.budget import Budget, check_depth
from jaxiqa.pretrained.pickles import Call, Global

AXES = 32  # largest number of axes of an array


@dataclass(frozen=True)
class Opaque:
    """Anything in a file that is neither data nor a container of data."""

    what: str


class Module(dict[str, Any]):
    """The parts of a pickled `torch.nn.Module`, by name: all are parameters of one network."""


@dataclass(eq=False)
class Storage:
    """A flat array of numbers; ``values`` is set when its part of the file is read."""

    key: str
    dtype: np.dtype
    count: int
    values: np.ndarray | None = None

    def fill(self, data: memoryview | bytes) -> None:
        """Set the numbers from their bytes."""
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"tensor data {self.key!r} has {len(data)} bytes, not {self.count} x {self.dtype}")
        self.values = np.frombuffer(data, self.dtype)


class Resolver:
    """Convert the result of `pickles.load` to dicts by name, lists, numbers, texts, None, arrays and `Opaque`.

    Args:
        budget: limits on the cost.
        nested: reads a pickle inside the pickle, from its bytes.
    """

    def __init__(self, budget: Budget, nested: Callable[[bytes], Any]):
        self.budget = budget
        self.nested = nested
        self.depth = 0
        self.done: dict[int, tuple[Any, Any]] = {}  # holds the value too, so that no other object gets its id

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict | list | tuple | Call):
            return value if isinstance(value, _PLAIN) else Opaque(_text(value))
        if id(value) not in self.done:
            self.done[id(value)] = value, Opaque("a part of itself")
            self.depth += 1
            check_depth(self.depth)
            self.done[id(value)] = value, self._resolve(value)
            self.depth -= 1
        return self.done[id(value)][1]

    def _resolve(self, value: Any) -> Any:
        if not isinstance(value, Call):
            self.budget.spend(steps=len(value))
        if isinstance(value, dict):
            return _by_name(value, self)
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        if isinstance(value.function, Global):
            known = CALLS.get(value.function.name) if value.function.module in MODULES else None
            if known:
                return known(value, self)
        if isinstance(value.state, dict) and value.state.keys() & {"_parameters", "_buffers", "_modules"}:
            return _module(value.state, self)
        if value.items:
            return self(value.items)
        return Opaque(f"a call of {_text(value.function)}, not executed")


_PLAIN = (str, bytes, bytearray, bool, int, float, type(None), np.ndarray, np.dtype, Storage, Opaque)


def _text(value: Any) -> str:
    """Return the text of a name, or the name of a type; never a text of the parts, which may be endless."""
    return str(value) if isinstance(value, str | Global) else f"a {type(value).__name__}"


def _by_name(value: dict[Any, Any], of: Resolver) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, item in value.items():
        name = "..." if isinstance(key, pickles.Persistent) else str(key)
        if name in named and name != "...":
            raise ValueError(f"two entries of one dict are called {name!r}")
        named[name] = of(item)
    return named


def _module(state: dict[str, Any], of: Resolver) -> Module:
    """Return the entries of the module's state dict."""
    passing = of(state.get("_non_persistent_buffers_set")) or []
    passing = {name for name in passing if isinstance(name, str)} if isinstance(passing, list) else set()
    parts = Module()
    for kind in ("_parameters", "_buffers", "_modules"):
        members = of(state.get(kind) or {})
        of.budget.spend(steps=len(members))  # several modules may share one dict
        parts.update({name: item for name, item in members.items() if item is not None and name not in passing})
    return parts


def _shape(size: Any) -> tuple[int, ...]:
    whole = isinstance(size, list | tuple) and len(size) <= AXES
    if not whole or not all(isinstance(side, int) and side >= 0 for side in size):
        raise ValueError("an array of an impossible shape")
    return tuple(size)


def _view(storage: Any, offset: Any, size: Any, stride: Any, *, budget: Budget) -> np.ndarray:
    if isinstance(storage, Storage):
        storage = storage.values
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor without data")
    size, stride, (offset,) = _shape(size), _shape(stride), _shape((offset,))
    if len(size) != len(stride):
        raise ValueError("a tensor of an impossible shape")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
        raise ValueError("a tensor reaches outside its data")
    if math.prod(size) > storage.size:  # repeated numbers: a step of 0
        budget.spend(unpacked=math.prod(size) * storage.itemsize)
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _tensor(call: Call, of: Resolver) -> np.ndarray:
    return _view(*(of(argument) for argument in call.arguments[:4]), budget=of.budget)


def _tensor_of_type(call: Call, of: Resolver) -> np.ndarray:
    storage, offset, size, stride, *_ = (of(argument) for argument in call.arguments[:4])
    name = call.arguments[6].name
    dtype = np.dtype(getattr(ml_dtypes, name, None) if name.startswith("float8") else name)
    if dtype.hasobject:
        raise ValueError(f"a tensor of type {name}")
    return _view(storage.values.view(dtype), offset, size, stride, budget=of.budget)


def _first(call: Call, of: Resolver) -> Any:
    return of(call.arguments[0])


def _from_type(call: Call, of: Resolver) -> Any:
    function, _, arguments, _ = call.arguments
    return of(Call(function, arguments))


def _storage_view(call: Call, of: Resolver) -> np.ndarray:
    storage, start, size = call.arguments
    return _view(storage, start, (size,), (1,), budget=of.budget)


def _nested(call: Call, of: Resolver) -> Any:
    return of(of.nested(of(call.arguments[0])))


def _dtype(call: Call, of: Resolver) -> np.dtype | Opaque:
    name = of(call.arguments[0])
    if not isinstance(name, str) or not re.fullmatch(r"[biufc]\d{1,2}|\?", name):
        return Opaque(f"numbers of type {_text(name)}")
    order: Literal["<", ">"] = call.state[1] if isinstance(call.state, tuple) and call.state[1] in ("<", ">") else "<"
    return np.dtype(name).newbyteorder(order)


def _bytes(call: Call, of: Resolver) -> bytes:
    of.budget.spend(unpacked=len(call.arguments[0]))
    return call.arguments[0].encode("latin-1")  # pickles of Python 2 store bytes in this way


def _array(call: Call, of: Resolver) -> np.ndarray | Opaque:
    if not isinstance(call.state, tuple):
        return Opaque("an array without data")
    _, shape, dtype, fortran, data = map(of, call.state)
    return _numpy(data, dtype, shape, "F" if fortran else "C", of.budget)


def _from_buffer(call: Call, of: Resolver) -> np.ndarray | Opaque:
    data, dtype, shape, order = map(of, call.arguments)
    return _numpy(data, dtype, shape, order, of.budget)


def _scalar(call: Call, of: Resolver) -> np.ndarray | Opaque:
    dtype, data = map(of, call.arguments)
    return _numpy(data, dtype, (), "C", of.budget)


def _numpy(data: Any, dtype: Any, shape: Any, order: Any, budget: Budget) -> np.ndarray | Opaque:
    if not isinstance(dtype, np.dtype) or not isinstance(data, str | bytes | bytearray):
        return Opaque("an array of objects")
    budget.spend(unpacked=len(data))  # many arrays may share the same bytes
    data = data.encode("latin-1") if isinstance(data, str) else data
    if len(data) != math.prod(_shape(shape)) * dtype.itemsize:
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
"""Name -> how to interpret a call of it. Every function is in this file; none is the one that the pickle names."""
