"""What is asked of the images and the key before any noise is drawn."""

from typing import Any

import numpy as np

from jaxiqa.checks import check_number


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number >= ``low``.

    >>> check_whole("n", 10.5, 1)
    Traceback (most recent call last):
    ValueError: n=10.5 is not allowed; expected an integer
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not allowed; expected an integer")
    check_number(name, value, low)
