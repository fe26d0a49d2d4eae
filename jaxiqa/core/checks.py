"""The few validators that public functions share. Each error names the argument, its value and what is allowed."""

import numbers
import re
import sys
from collections.abc import Collection, Hashable
from typing import Any


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``.

    >>> check_choice("norm", "l3", ["linf", "l2"])
    Traceback (most recent call last):
    ValueError: norm='l3' is not allowed; choose from 'linf', 'l2'
    """
    if not isinstance(value, Hashable) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; choose from {', '.join(map(repr, allowed))}")


def check_number(
    name: str, value: Any, low: int | float, high: int | float = float("inf"), *, open_low: bool = False
) -> None:
    """Raise ``ValueError`` unless ``low <= value <= high`` (``low < value`` with ``open_low``); NaN never passes.

    Of an array every value is checked. A traced one, and what JAX puts in the place of a leaf, pass unseen.

    >>> check_number("epsilon", 2.0, 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: epsilon=2.0 is outside [0.0, 1.0]
    >>> check_number("epsilon", "8/255", 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: epsilon='8/255' is not a number; write 8 / 255
    """
    if isinstance(value, bool | str | bytes | list | tuple | dict) or str(getattr(value, "dtype", "")) == "bool":
        quotient = isinstance(value, str) and re.fullmatch(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*", value)
        hint = f"; write {quotient[1]} / {quotient[2]}" if quotient else ""
        raise ValueError(f"{name}={value!r} is not a number{hint}")
    if isinstance(value, numbers.Number) or _is_seen(value):
        import numpy as np

        values = np.asarray(value)
        if values.dtype.kind not in "iuf" and values.dtype.name != "bfloat16":
            raise ValueError(f"{name}={value!r} is not a real number")
        if not (((values > low) if open_low else (values >= low)) & (values <= high)).all():
            raise ValueError(f"{name}={value!r} is outside {'(' if open_low else '['}{low}, {high}]")


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number >= ``least``.

    >>> check_count("pixels", 1.5, 1)
    Traceback (most recent call last):
    ValueError: pixels=1.5 is not allowed; expected an integer >= 1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not allowed; expected an integer >= {least}")


def check_size(name: str, value: Any, least: int = 1) -> None:
    """Raise ``ValueError`` unless ``value`` is a pair of whole numbers >= ``least``.

    >>> check_size("size", 96)
    Traceback (most recent call last):
    ValueError: size=96; give (height, width), such as (96, 128)
    """
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        raise ValueError(f"{name}={value!r}; give (height, width), such as (96, 128)")
    for side in value:
        check_count(name, side, least)


def _is_seen(value: Any) -> bool:
    """Whether this is an array whose values can be looked at."""
    if not hasattr(value, "__array__"):
        return False
    import jax  # not above: what checks options alone starts without it

    return not isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct)


def check_option(name: str, value: Any, *, open_low: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number >= 0 (> 0 with ``open_low``).

    >>> check_option("sigma", "0.1")
    Traceback (most recent call last):
    ValueError: sigma='0.1' is not allowed; expected a number
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name}={value!r} is not allowed; expected a number")
    check_number(name, value, 0.0, sys.float_info.max, open_low=open_low)


def check_chunk(chunk: int | None) -> None:
    """Raise ``ValueError`` unless ``chunk`` is None or a whole number >= 1."""
    if chunk is not None:
        check_count("chunk", chunk, 1)
