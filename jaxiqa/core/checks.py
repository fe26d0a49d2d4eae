"""Checks of arguments shared by public functions. Each error names the argument, its value and what is allowed."""

import numbers
import re
import sys
from collections.abc import Collection, Hashable
from typing import Any


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Check that ``value`` is one of ``allowed``; otherwise raise ``ValueError``.

    >>> check_choice("norm", "l3", ["linf", "l2"])
    Traceback (most recent call last):
    ValueError: norm='l3' is not allowed; choose from 'linf', 'l2'
    """
    if not isinstance(value, Hashable) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; choose from {', '.join(map(repr, allowed))}")


def check_number(
    name: str,
    value: Any,
    low: int | float,
    high: int | float = float("inf"),
    *,
    open_low: bool = False,
    or_none: bool = False,
) -> None:
    """Check that ``low <= value <= high`` (``low < value`` with ``open_low``); otherwise raise ``ValueError``.

    NaN never passes, and None only with ``or_none``: a default, or an axis of `jax.vmap`, where JAX writes None in
    place of a leaf. All values of an array are checked. Traced arrays, and placeholders that JAX puts in place of
    leaves, are not checked.

    >>> check_number("epsilon", 2.0, 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: epsilon=2.0 is outside [0.0, 1.0]
    >>> check_number("epsilon", "8/255", 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: epsilon='8/255' is not a number; write 8 / 255
    """
    if value is None and or_none:
        return
    if isinstance(value, bool | str | bytes | list | tuple | dict | None) or str(getattr(value, "dtype", "")) == "bool":
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
    """Check that ``value`` is a whole number >= ``least``; otherwise raise ``ValueError``.

    >>> check_count("pixels", 1.5, 1)
    Traceback (most recent call last):
    ValueError: pixels=1.5 is not allowed; expected an integer >= 1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not allowed; expected an integer >= {least}")


def check_size(name: str, value: Any, least: int = 1) -> None:
    """Check that ``value`` is a pair of whole numbers >= ``least``; otherwise raise ``ValueError``.

    >>> check_size("size", 96)
    Traceback (most recent call last):
    ValueError: size=96 is not allowed; expected (height, width), such as (96, 128)
    """
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        raise ValueError(f"{name}={value!r} is not allowed; expected (height, width), such as (96, 128)")
    for side in value:
        check_count(name, side, least)


def _is_seen(value: Any) -> bool:
    """Return whether this is an array with concrete values."""
    if not hasattr(value, "__array__"):
        return False
    import jax  # not at the top: programs that only check options start without JAX

    return not isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct)


def check_option(name: str, value: Any, *, open_low: bool = False) -> None:
    """Check that ``value`` is a finite number >= 0 (> 0 with ``open_low``); otherwise raise ``ValueError``.

    >>> check_option("sigma", "0.1")
    Traceback (most recent call last):
    ValueError: sigma='0.1' is not allowed; expected a number
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name}={value!r} is not allowed; expected a number")
    check_number(name, value, 0.0, sys.float_info.max, open_low=open_low)


def check_chunk(chunk: int | None) -> None:
    """Check that ``chunk`` is None or a whole number >= 1; otherwise raise ``ValueError``."""
    if chunk is not None:
        check_count("chunk", chunk, 1)
