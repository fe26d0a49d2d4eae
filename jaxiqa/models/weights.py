"""Reading files of published weights. Nothing in a file is ever executed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxiqa.models import pickles
from jaxiqa.models.keras_files import read_h5
from jaxiqa.models.torch_files import Opaque, read_pickle, read_zip

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "net",
    "network",
    "weights",
    "model_weights",
    "params_ema",
)
"""What the entry that holds the parameters is called, where a file has others beside it; the first one counts."""

FORMATS = "this reads .safetensors, PyTorch's files (.pth, .pt, .pkl), NumPy's .npz and Keras' .h5"
LARGEST = 200_000  # entries; a small pickle can stand for a tree that has no end


@dataclass(frozen=True)
class Source:
    """Where a published file lies.

    Attributes:
        url: of the file itself; None where a person has to fetch it from ``page``.
        page: where its authors offer it.
        sha256: its digest, or the leading part that is known; None where nothing is known.
        size: bytes, or None where unknown.
    """

    url: str | None
    page: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Attributes:
        arrays: the parameters and buffers, by dotted names.
        numbers: numbers and lists of numbers that stand beside them, such as a calibration, or an epoch.
        left_out: everything else by name, and what it is: an optimizer's state, texts, calls that were not done.
        metadata: texts in a ``.safetensors`` file's header.
    """

    arrays: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a file of weights, by the names they have in it, and the lists of numbers beside them.

    The format is known by the file's first bytes, not by its suffix: ``.safetensors``, PyTorch's (before version 1.6
    and since, whole pickled modules too), plain pickles of arrays, ``.npz`` and Keras' ``.h5`` (with h5py).
    `contents` also tells what was left out.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of none of these formats, is damaged, or holds no arrays; the message names it.
        ImportError: it is an ``.h5`` file, and h5py is not installed.

    >>> import tempfile, pathlib, safetensors.numpy
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "w.safetensors"
    >>> safetensors.numpy.save_file({"bias": np.zeros(2, np.float32)}, path)
    >>> read(path)
    {'bias': array([0., 0.], dtype=float32)}
    """
    found = contents(path)
    return found.arrays | {name: numbers for name, numbers in found.numbers.items() if numbers.ndim}


def contents(path: str | os.PathLike[str]) -> Contents:
    """`read`, and what stands beside the parameters. Errors are those of `read`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} {'is a folder' if path.is_dir() else 'does not exist'}")
    with open(path, "rb") as file:
        start = file.read(16)
    try:
        if start[:2] == b"PK":
            return unpack(read_zip(path))
        if start[:4] == b"\x89HDF":
            return unpack(read_h5(path))
        if start[:1] == b"\x80":
            return unpack(read_pickle(path))
        if start[8:9] == b"{" or path.suffix == ".safetensors":
            return _read_safetensors(path)
        if start.lstrip()[:1] == b"<":
            raise ValueError("it is a web page; the download went wrong")
        raise ValueError(f"its first bytes are {start!r}; {FORMATS}")
    except pickles.FAULTS as error:
        raise ValueError(f"weights file {str(path)!r} is damaged or cannot be read: {error}") from error


def unpack(tree: Any) -> Contents:
    """The parameters in nested containers: the wrapping ones are taken off, the others give dotted names.

    Of several entries one is the parameters' if it is named so (`WRAPPERS`), or if it alone holds arrays and is no
    optimizer's. A leading ``module.``, which PyTorch's ``DataParallel`` adds to every name, is removed.

    >>> found = unpack({"model": {"module.fc.bias": np.zeros(2)}, "k": [8.0, 2.0], "epoch": 3, "note": "best"})
    >>> list(found.arrays), {name: v.tolist() for name, v in found.numbers.items()}, found.left_out
    (['fc.bias'], {'k': [8.0, 2.0], 'epoch': 3}, {'note': "'best'"})
    """
    numbers: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    prefix = ""
    while isinstance(tree, Mapping) and (chosen := _wrapped(tree)) is not None:
        for name, item in tree.items():
            if name != chosen:
                _set_aside(f"{prefix}{name}", item, numbers, left_out)
        tree, prefix = tree[chosen], f"{prefix}{chosen}."
    if not isinstance(tree, Mapping):
        raise ValueError(f"it holds {_describe(tree)} instead of named arrays")
    arrays: dict[str, np.ndarray] = {}
    for name, item in _leaves(tree):
        if isinstance(item, np.ndarray) and item.dtype != object:
            arrays[name] = item
        else:
            _set_aside(name, item, numbers, left_out)
    if not arrays:
        listed = ", ".join(f"{name} ({what})" for name, what in list(left_out.items())[:5])
        raise ValueError(f"it holds no arrays, only {listed or 'nothing'}")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return Contents(arrays, numbers, left_out)


def _wrapped(tree: Mapping[str, Any]) -> str | None:
    """Name of the entry that holds the parameters, if it is one entry."""
    containers = [name for name, item in tree.items() if isinstance(item, Mapping) and _holds_arrays(item)]
    named = [name for name in WRAPPERS if name in containers]
    if named:
        return named[0]
    if any(isinstance(item, np.ndarray) for item in tree.values()):
        return None
    training = ("optim", "sched", "amp", "scaler")
    parts = [name for name in containers if not any(word in name.lower() for word in training)]
    return parts[0] if len(parts) == 1 and parts[0] != "module" else None


def _holds_arrays(tree: Mapping[str, Any]) -> bool:
    return any(isinstance(item, np.ndarray) for _, item in _leaves(tree))


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    pending = [("", tree)]
    for _ in range(LARGEST):
        if not pending:
            return
        name, item = pending.pop()
        if isinstance(item, Mapping):
            children = [(f"{name}.{key}" if name else str(key), child) for key, child in item.items()]
            pending += reversed(children)
        else:
            yield name, item
    raise ValueError(f"it has more than {LARGEST} entries")


def _set_aside(name: str, item: Any, numbers: dict[str, np.ndarray], left_out: dict[str, str]) -> None:
    values = item if isinstance(item, list | tuple) else [item]
    plain = [isinstance(value, bool | int | float) or getattr(value, "shape", None) == () for value in values]
    vector = isinstance(item, np.ndarray) and item.ndim == 1
    if vector or (values and all(plain)):
        numbers[name] = np.asarray(item)
    else:
        left_out[name] = _describe(item)


def _describe(item: Any) -> str:
    match item:
        case Opaque():
            return item.what
        case Mapping():
            return f"{len(item)} entries"
        case list() | tuple():
            return f"a list of {len(item)}"
        case np.ndarray():
            return f"an array {item.shape}"
        case _:
            text = repr(item)
            return text if len(text) <= 40 else f"{text[:37]}..."


def _read_safetensors(path: Path) -> Contents:
    types = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
    dtypes = {name: np.dtype(code) for name, code in types.items()}
    dtypes |= {"BOOL": np.dtype(bool), "BF16": np.dtype(ml_dtypes.bfloat16)}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        arrays = {
            name: np.frombuffer(entry["data"], dtypes[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in safetensors.deserialize(path.read_bytes())
        }
    except KeyError as error:
        raise ValueError(f"numbers of type {error} are not supported") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    found = unpack(arrays)
    return Contents(found.arrays, found.numbers, found.left_out, metadata)
