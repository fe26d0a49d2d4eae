"""The few validators that public functions share. Each error names the argument, its value and what is allowed."""

from collections.abc import Collection
from typing import Any


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``.

    >>> check_choice("norm", "l3", ["linf", "l2"])
    Traceback (most recent call last):
    ValueError: norm='l3' is not allowed; choose from 'linf', 'l2'
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not allowed; choose from {', '.join(map(repr, allowed))}")


def check_number(
    name: str, value: int | float, low: int | float, high: int | float = float("inf"), *, open_low: bool = False
) -> None:
    """Raise ``ValueError`` unless ``low <= value <= high`` (``low < value`` with ``open_low``); NaN never passes.

    >>> check_number("epsilon", 2.0, 0.0, 1.0)
    Traceback (most recent call last):
    ValueError: epsilon=2.0 is outside [0.0, 1.0]
    """
    above = value > low if open_low else value >= low
    if not (above and value <= high):
        raise ValueError(f"{name}={value!r} is outside {'(' if open_low else '['}{low}, {high}]")


def check_images(name: str, images: Any, *, minimum: int = 1) -> None:
    """Raise ``ValueError`` unless ``images`` is ``b h w c`` with floating values and sides of at least ``minimum``.

    >>> import numpy as np
    >>> check_images("images", np.zeros((8, 8, 3), np.float32))
    Traceback (most recent call last):
    ValueError: images has shape (8, 8, 3); expected four axes, b h w c
    """
    if images.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(images.shape)}; expected four axes, b h w c")
    if images.dtype.kind != "f" and str(images.dtype) != "bfloat16":
        raise ValueError(f"{name} has dtype {images.dtype}; expected float in [0, 1] (divide uint8 by 255)")
    if min(images.shape[1:3]) < minimum:
        raise ValueError(f"{name} is {images.shape[1]}x{images.shape[2]}; both sides must be at least {minimum} pixels")
