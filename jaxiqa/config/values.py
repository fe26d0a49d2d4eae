"""Check the type of every field of an experiment."""

import dataclasses
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxiqa.config.suggest import suggestion


def check_values(value: Any, where: str = "") -> None:
    """Check that every value has the type of its field; else raise ``ValueError`` with the full name of the field.

    >>> Training = dataclasses.make_dataclass("Training", [("loss", Literal["mse", "plcc"])])
    >>> check_values(Training(loss="msee"), "variants.baseline.training")
    Traceback (most recent call last):
    ValueError: variants.baseline.training.loss='msee'; did you mean 'mse'? There are 'mse', 'plcc'
    """
    hints = get_type_hints(type(value))
    for field in dataclasses.fields(value):
        name = f"{where}.{field.name}" if where else field.name
        if fault := _fault(getattr(value, field.name), hints[field.name], name):
            raise ValueError(fault)


def _fault(value: Any, kind: Any, name: str) -> str | None:
    """Return what is wrong with ``value``, or None."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return _option_fault(value, name)
    if origin is Literal:
        return None if value in parts else f"{name}={value!r}{suggestion(value, parts)}"
    if origin in (Union, types.UnionType):
        return _union_fault(value, parts, name)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, kind):
            return f"{name}={value!r}; expected a jaxiqa.config.{kind.__name__}"
        check_values(value, name)
        return None
    if origin is dict:
        if not isinstance(value, dict):
            return f"{name}={value!r}; expected a dict"
        if odd := [key for key in value if not isinstance(key, str)]:
            return f"{name} has the key {odd[0]!r}; expected text"
        return next(filter(None, (_fault(item, parts[1], f"{name}.{key}") for key, item in value.items())), None)
    if origin is tuple:
        return _tuple_fault(value, parts, name)
    right = isinstance(value, float | int if kind is float else kind)
    if not right or (isinstance(value, bool) and kind is not bool):
        mend = f"; write {value} without quotes" if isinstance(value, str) and value[:1].isdigit() else ""
        return f"{name}={value!r}; expected {_named(kind)}{mend}"
    return f"{name}={value}; expected a number" if kind is float and math.isnan(value) else None


def _union_fault(value: Any, parts: tuple, name: str) -> str | None:
    faults = []
    for part in parts:
        try:
            fault = _fault(value, part, name)
        except ValueError as error:  # the right type with a wrong field
            return str(error)
        if fault is None:
            return None
        if part is not type(None) and (get_origin(part) is not tuple or isinstance(value, tuple)):
            faults.append(fault)
    return faults[-1] if faults else f"{name}={value!r}; expected {' or '.join(map(_named, parts))}"


def _tuple_fault(value: Any, parts: tuple, name: str) -> str | None:
    if not isinstance(value, tuple):
        return f"{name}={value!r}; expected a tuple, such as ({value!r},)"
    if parts[-1] is not Ellipsis and len(value) != len(parts):
        return f"{name}={value!r}; expected {len(parts)} values"
    kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
    items = (_fault(item, part, f"{name}[{i}]") for i, (item, part) in enumerate(zip(value, kinds, strict=True)))
    return next(filter(None, items), None)


def _option_fault(value: Any, name: str) -> str | None:
    """Check that an option can be stored as JSON, for the comparison with later runs."""
    if isinstance(value, dict):
        return next(filter(None, (_option_fault(item, f"{name}.{key}") for key, item in value.items())), None)
    if isinstance(value, list | tuple):
        return next(filter(None, (_option_fault(item, f"{name}[{i}]") for i, item in enumerate(value))), None)
    if isinstance(value, float) and math.isnan(value):
        return f"{name}={value}; expected a number"
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, float):
        return None
    return f"{name}={value!r} of type {type(value).__name__}; options are numbers, texts, booleans, tuples, None"


def _named(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "a tuple"
    names = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
    return names[kind] if kind in names else getattr(kind, "__name__", str(kind))
