"""What is asked of the options of a certifier, when it is made."""

from typing import Any

import numpy as np

from jaxiqa.checks import check_count, check_number


def check_option(name: str, value: Any, *, open_low: bool = False) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number >= 0 (> 0 with ``open_low``).

    >>> check_option("sigma", "0.1")
    Traceback (most recent call last):
    ValueError: sigma='0.1' is not allowed; expected a number
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name}={value!r} is not allowed; expected a number")
    check_number(name, value, 0.0, float(np.finfo(np.float64).max), open_low=open_low)


def check_chunk(chunk: int | None) -> None:
    """Raise ``ValueError`` unless ``chunk`` is None or a whole number >= 1."""
    if chunk is not None:
        check_count("chunk", chunk, 1)
