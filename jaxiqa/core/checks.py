"""The few validators that public functions share. Each error names the argument, its value and what is allowed."""

import numbers
import re
from collections.abc import Collection
from os import PathLike
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


def _is_seen(value: Any) -> bool:
    """Whether this is an array whose values can be looked at."""
    if not hasattr(value, "__array__"):
        return False
    import jax  # not above: what checks options alone starts without it

    return not isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct)


def check_images(name: str, images: Any, *, minimum: int = 1, channels: int | None = None) -> None:
    """Raise unless ``images`` is an array ``b h w c`` of floating values with sides of at least ``minimum``.

    Raises:
        TypeError: no NumPy or JAX array; says how to make one.
        ValueError: another number of axes or ``channels``, other values than float, or images that are too small.

    >>> import numpy as np
    >>> check_images("images", np.zeros((8, 8, 3), np.float32))
    Traceback (most recent call last):
    ValueError: images has shape (8, 8, 3); expected four axes, b h w c (a batch of one image is images[None])
    >>> check_images("images", np.zeros((1, 3, 8, 8), np.float32), channels=3)
    Traceback (most recent call last):
    ValueError: images has shape (1, 3, 8, 8); expected 3 channels last, b h w 3 (b c h w: transpose by (0, 2, 3, 1))
    """
    import jax  # not above: what checks options alone starts without it
    import numpy as np

    if not isinstance(images, np.ndarray | jax.Array | jax.ShapeDtypeStruct):
        expected = "expected a NumPy or JAX array b h w c in [0, 1]"
        raise TypeError(f"{name} is a {type(images).__name__}; {expected} ({_mend(images)})")
    shape = tuple(images.shape)
    if len(shape) != 4:
        hint = " (a batch of one image is images[None])" if len(shape) == 3 else ""
        raise ValueError(f"{name} has shape {shape}; expected four axes, b h w c{hint}")
    if images.dtype.kind != "f" and str(images.dtype) != "bfloat16":
        raise ValueError(f"{name} has dtype {images.dtype}; expected float in [0, 1] (divide uint8 by 255)")
    if channels is not None and shape[3] != channels:
        hint = {1: "grey: repeat it along the last axis", 4: "RGBA: leave alpha out, images[..., :3]"}.get(shape[3])
        hint = "b c h w: transpose by (0, 2, 3, 1)" if shape[1] == channels else hint
        hint = f" ({hint})" if hint else ""
        raise ValueError(f"{name} has shape {shape}; expected {channels} channels last, b h w {channels}{hint}")
    if min(shape[1:3]) < minimum:
        raise ValueError(f"{name} is {shape[1]}x{shape[2]}; both sides must be at least {minimum} pixels")


def _mend(value: Any) -> str:
    """How to get an array from what was given in its place."""
    if isinstance(value, str | PathLike):
        return "read the file first: jaxiqa.data.read_image(path)[None] / 255"
    if isinstance(value, list | tuple):
        return "stack images of one size: np.stack(images)"
    if hasattr(value, "detach"):  # a PyTorch tensor, channels first as a rule
        return "images.permute(0, 2, 3, 1).numpy() of a PyTorch tensor b c h w"
    if hasattr(value, "getbands"):  # Pillow
        return "np.asarray(image.convert('RGB'))[None] / 255"
    return "np.asarray(images)"
