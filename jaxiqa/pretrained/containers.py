"""Find the parameters in the contents of a weight file, beside optimizer states, averages and texts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxiqa.pretrained.budget import ENTRIES, Budget, check_depth
from jaxiqa.pretrained.torch_values import Module, Opaque

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "net",
    "network",
    "weights",
    "model_weights",
    "module",
    "generator",
    "g",
)
"""Names of the entry with the parameters, in a file that has other entries too; the first one found is used, after
every average (`is_average`)."""

AVERAGES = {"ema", "swa", "averaged", "average", "avg", "shadow", "polyak"}
"""Words in the name of an entry that holds a moving average of the parameters, such as ``params_ema``."""

TRAINING = ("optim", "sched", "amp", "scaler")
SHELLS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Name parts that PyTorch's wrappers add: ``DataParallel``, ``torch.compile``, sharding and recomputation."""


@dataclass(frozen=True)
class Contents:
    """The contents of a weight file.

    Attributes:
        arrays: the parameters and buffers, by dotted names.
        numbers: numbers and lists of numbers beside them, such as a calibration or an epoch.
        left_out: everything else: name -> what it is, such as an optimizer state, a text, a call that was not executed,
            or the parameters whose average is used.
        metadata: texts in a ``.safetensors`` file's header.
        entry: the entry used if there are several, such as ``"params_ema"``; else empty.
    """

    arrays: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    entry: str = ""


def unpack(tree: Any, *, entry: str | None = None, budget: Budget | None = None) -> Contents:
    """Find the parameters in nested containers: remove wrapping containers, and join the names of others by dots.

    If there are several entries, the parameters are in the one that is a moving average (`is_average`: ``params_ema``,
    ``ema``, ``model_ema``, ``state_dict_ema`` ...), which its authors evaluate and publish; or that has a name in
    `WRAPPERS`; or that alone has arrays and is no optimizer state. Name parts of PyTorch's wrappers (`SHELLS`) are
    removed.

    Args:
        tree: the contents of a file.
        entry: the entry to use instead, such as ``"params"``.
        budget: limits on the cost.

    Raises:
        ValueError: there are no arrays, no such entry, two arrays with one name, or the budget is exceeded.

    >>> found = unpack({"model": {"module.fc.bias": np.zeros(2)}, "k": [8.0, 2.0], "epoch": 3, "note": "best"})
    >>> list(found.arrays), {name: v.tolist() for name, v in found.numbers.items()}, found.left_out
    (['fc.bias'], {'k': [8.0, 2.0], 'epoch': 3}, {'note': "'best'"})
    >>> found = unpack({"params": {"bias": np.zeros(1)}, "params_ema": {"bias": np.ones(1)}})
    >>> found.arrays["bias"], found.entry, found.left_out
    (array([1.]), 'params_ema', {'params': '1 entries'})
    """
    budget = budget or Budget(size=0)
    numbers: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    prefix, taken = "", ""
    tree = _nested(tree)
    while isinstance(tree, Mapping) and (chosen := _wrapped(tree, entry, budget)) is not None:
        budget.spend(steps=len(tree))
        for name, item in tree.items():
            if name != chosen:
                _set_aside(f"{prefix}{name}", item, numbers, left_out)
        if len(tree) > 1:
            taken = f"{prefix}{chosen}"
        tree, prefix, entry = _nested(tree[chosen]), f"{prefix}{chosen}.", None
        check_depth(prefix.count("."))
    if entry is not None:
        among = ", ".join(list(tree)[:10]) if isinstance(tree, Mapping) else _describe(tree)
        raise ValueError(f"it has no entry {entry!r} with arrays, only {among}")
    if not isinstance(tree, Mapping):
        raise ValueError(f"it holds {_describe(tree)} instead of named arrays")
    arrays: dict[str, np.ndarray] = {}
    for name, item in _leaves(tree, budget):
        if name in arrays:
            raise ValueError(f"two arrays are called {name!r}")
        if isinstance(item, np.ndarray) and item.dtype != object:
            arrays[name] = item
        else:
            _set_aside(name, item, numbers, left_out)
    if "n_averaged" in arrays and arrays["n_averaged"].ndim == 0:  # number of steps of PyTorch's `AveragedModel`
        numbers["n_averaged"] = arrays.pop("n_averaged")
    if not arrays:
        listed = ", ".join(f"{name} ({what})" for name, what in list(left_out.items())[:5])
        raise ValueError(f"it holds no arrays, only {listed or 'nothing'}")
    return Contents(_bare(arrays), numbers, left_out, entry=taken)


def is_average(name: str) -> bool:
    """Return whether an entry of this name holds a moving average: one of its words is in `AVERAGES`.

    >>> [is_average(name) for name in ("params_ema", "ema", "model-EMA", "emaModel", "schema")]
    [True, True, True, True, False]
    """
    return any(word.lower() in AVERAGES for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))


def from_mapping(given: Mapping[str, Any]) -> Contents:
    """Convert a dict of arrays or PyTorch tensors as if it were a file.

    Raises:
        ValueError: as of `unpack`.
    """

    def arrays(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): arrays(item) for key, item in value.items()}
        value = value.detach().cpu() if hasattr(value, "detach") else value  # a PyTorch tensor
        return np.asarray(value) if hasattr(value, "shape") else value

    try:
        return unpack(arrays(given))
    except ValueError as error:
        raise ValueError(f"weights: {error}") from error


def _nested(tree: Any) -> Any:
    """Nest the entries of a flat file: ``params.bias`` beside ``params_ema.bias``.

    Formats without containers (safetensors, npz) store an average only in this way. It is one if another entry has the
    same names.
    """
    if not isinstance(tree, Mapping) or not all(isinstance(item, np.ndarray) for item in tree.values()):
        return tree
    for named in (tree, _bare(dict(tree))):
        if (entries := _entries(named)) is not None:
            return entries
    return tree


def _entries(flat: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Group the arrays by the first part of their names, if one of these entries is the average of another."""
    entries: dict[str, Any] = {}
    for name, item in flat.items():
        first, _, rest = name.partition(".")
        if rest and isinstance(entries.setdefault(first, {}), dict):
            entries[first][rest] = item
        elif first in entries:
            return None
        else:
            entries[first] = item
    averages = [entry for name, entry in entries.items() if isinstance(entry, dict) and is_average(name)]
    twins = [entry for entry in entries.values() if averages and entry is not averages[0] and isinstance(entry, dict)]
    return entries if any(entry.keys() == averages[0].keys() for entry in twins) else None


def _wrapped(tree: Mapping[str, Any], entry: str | None, budget: Budget) -> str | None:
    """Return the name of the entry that holds the parameters, if it is one entry."""
    containers = [name for name, item in tree.items() if isinstance(item, Mapping) and _holds_arrays(item, budget)]
    if entry is not None and entry in containers:
        return entry
    if isinstance(tree, Module):  # its entries are parts of one network, whatever their names
        return None
    parts = [name for name in containers if not any(word in name.lower() for word in TRAINING)]
    averages = [name for name in parts if is_average(name)]
    if len(averages) > 1 and entry is None:
        raise ValueError(
            f"it holds several averages of the parameters ({', '.join(averages)}); choose one by "
            f"weights=jaxiqa.pretrained.files.read(path, entry={averages[0]!r})"
        )
    named = averages + [name for name in WRAPPERS if name in parts]
    if named and (entry is None or len(containers) == 1):
        return named[0]
    if any(isinstance(item, np.ndarray) for item in tree.values()):
        return None
    return parts[0] if len(parts) == 1 else None


def _bare(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove `SHELLS` from the names if all names stay different."""
    names = [".".join(part for part in name.split(".") if part not in SHELLS) for name in arrays]
    return dict(zip(names, arrays.values(), strict=True)) if len(set(names)) == len(names) and all(names) else arrays


def _holds_arrays(tree: Mapping[str, Any], budget: Budget) -> bool:
    return any(isinstance(item, np.ndarray) for _, item in _leaves(tree, budget))


def _leaves(tree: Mapping[str, Any], budget: Budget) -> Iterator[tuple[str, Any]]:
    pending = [("", tree)]
    for _ in range(ENTRIES):
        if not pending:
            return
        name, item = pending.pop()
        if isinstance(item, Mapping):
            budget.spend(steps=len(item), letters=sum(len(name) + 1 + len(str(key)) for key in item))
            children = [(f"{name}.{key}" if name else str(key), child) for key, child in item.items()]
            pending += reversed(children)
        else:
            yield name, item
    raise ValueError(f"it has more than {ENTRIES} entries")


def _set_aside(name: str, item: Any, numbers: dict[str, np.ndarray], left_out: dict[str, str]) -> None:
    values = item if isinstance(item, list | tuple) else [item]
    plain = [isinstance(value, bool | int | float) or getattr(value, "shape", None) == () for value in values]
    vector = isinstance(item, np.ndarray) and item.ndim == 1
    if vector or (values and all(plain)):
        array = np.asarray(item)
        if array.dtype != object:  # a whole number beyond 64 bits
            numbers[name] = array
            return
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
        case int() if abs(item) >= 2**64:
            return "a number beyond 64 bits"
        case str() | bytes():
            item = item[:50]
    text = repr(item)
    return text if len(text) <= 40 else f"{text[:37]}..."
