"""Checks of images, for every function that takes images."""

from os import PathLike
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.core.pytrees import is_traced

OVERSHOOT = 0.5
"""How far pixels of prepared images may lie outside [0, 1]: bicubic resizing overshoots."""


def check_unit_images(
    images: Any, *, minimum: int = 1, channels: int | None = 3, name: str = "images", slack: float = 0.0
) -> None:
    """Check that ``images`` is a batch of RGB images in [0, 1].

    Type and layout of tracers are checked too, but not their values. A `jax.Array` never changes, so its range is
    computed once, on its device; only two numbers are copied to the host.

    Args:
        images: ``b h w c``, float, in [0, 1] up to rounding (8 units in the last place of its type at 1).
        minimum: smallest height and width, in pixels.
        channels: 3, or None for any number.
        name: name of the argument in error messages.
        slack: how far values may lie outside [0, 1], for results of an interpolation that overshoots.

    Raises:
        TypeError: ``images`` is not a NumPy or JAX array; the message says how to make one.
        ValueError: wrong layout, dtype or range; no image, or too small images.

    >>> check_unit_images(jnp.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1] (divide pixels of 0..255 by 255)
    """
    check_images(name, images, minimum=minimum, channels=channels)
    if images.shape[0] == 0:  # not len(): the batch size of an exported metric may be symbolic
        raise ValueError(f"{name} has shape {tuple(images.shape)}; expected at least one image")
    if _SEEN.get((id(images), slack)) is images or is_traced(images):
        return
    low, high = _extremes(images)
    rounding = slack + 8 * float(jnp.finfo(images.dtype).eps)
    if not (low >= -rounding and high <= 1 + rounding):
        hint = " (divide pixels of 0..255 by 255)" if high > 2 else ""
        hint = " (map [-1, 1] to it by (x + 1) / 2)" if -1 <= low < -rounding and high <= 1 else hint
        raise ValueError(f"{name} has values in [{low}, {high}]; expected [0, 1]{hint}")
    if isinstance(images, jax.Array):
        _SEEN[id(images), slack] = images


_SEEN: WeakValueDictionary[tuple[int, float], jax.Array] = WeakValueDictionary()
"""Arrays whose range was checked already, as long as they exist."""


def _extremes(images: Any) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if there is any."""
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return 0.0, 1.0  # other processes hold parts of it
    if isinstance(images, np.ndarray) or images.devices() == {jax.local_devices(backend="cpu")[0]}:
        images = np.asarray(images)  # the same memory
        return float(images.min()), float(images.max())
    with jax.ensure_compile_time_eval():  # under an outer jit even a constant would be traced
        low, high = jax.device_get(_min_max(images))
    return float(low), float(high)


@jax.jit
def _min_max(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return images.min(), images.max()


def check_images(name: str, images: Any, *, minimum: int = 1, channels: int | None = None) -> None:
    """Check that ``images`` is an array ``b h w c`` of floating-point values with sides of at least ``minimum``.

    Raises:
        TypeError: ``images`` is not a NumPy or JAX array; the message says how to make one.
        ValueError: wrong number of axes or channels, wrong dtype, or too small images.

    >>> import numpy as np
    >>> check_images("images", np.zeros((8, 8, 3), np.float32))
    Traceback (most recent call last):
    ValueError: images has shape (8, 8, 3); expected four axes, b h w c (a batch of one image is images[None])
    >>> check_images("images", np.zeros((1, 3, 8, 8), np.float32), channels=3)
    Traceback (most recent call last):
    ValueError: images has shape (1, 3, 8, 8); expected 3 channels last, b h w 3 (b c h w: transpose by (0, 2, 3, 1))
    """
    import jax  # not at the top: programs that only check options start without JAX
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
        hint = {1: "grey: repeat it along the last axis", 4: "RGBA: leave alpha out, images[..., :3]"}.get(shape[3], "")
        hint = "b c h w: transpose by (0, 2, 3, 1)" if shape[1] == channels else hint
        hint = f" ({hint})" if hint else ""
        raise ValueError(f"{name} has shape {shape}; expected {channels} channels last, b h w {channels}{hint}")
    if shape[1] < minimum or shape[2] < minimum:
        raise ValueError(f"{name} is {shape[1]}x{shape[2]}; both sides must be at least {minimum} pixels")


def _mend(value: Any) -> str:
    """Return how to make an array from the given value."""
    if isinstance(value, str | PathLike):
        return "read the file first: jaxiqa.data.read_image(path)[None] / 255"
    if isinstance(value, list | tuple):
        return "stack images of one size: np.stack(images)"
    if hasattr(value, "detach"):  # a PyTorch tensor, channels first as a rule
        return "images.permute(0, 2, 3, 1).numpy() of a PyTorch tensor b c h w"
    if hasattr(value, "getbands"):  # Pillow
        return "np.asarray(image.convert('RGB'))[None] / 255"
    return "np.asarray(images)"
