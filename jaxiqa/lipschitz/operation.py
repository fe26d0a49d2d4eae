"""One operation of a traced program, and how much it can amplify a change of its input in the Euclidean norm.

A complex number counts as two real numbers, so the norm of a complex array is √Σ|z|².
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.lipschitz.spectral import NormBound

FLOAT32_BITS = 23
"""Fraction bits of float32. Bounds are for exact arithmetic; rounding to fewer bits is a step function."""


@dataclass(frozen=True)
class Gain:
    """The effect of an operation on distances.

    Attributes:
        upper: the largest factor by which distances grow.
        method: how ``upper`` was found, or why there is none.
        exact: whether ``upper`` is the constant itself.
        linear: whether power iteration can find a lower bound.
        weights: of the output, if it is half of a spectrum; see `jaxiqa.lipschitz.spectrum`.
    """

    upper: float
    method: str
    exact: bool = True
    linear: bool = False
    weights: np.ndarray | None = None


def of_map(bound: NormBound) -> Gain:
    """Return the gain of a known linear map, from the bound of its norm."""
    return Gain(bound.value, bound.method, bound.exact, linear=not bound.exact)


@dataclass(frozen=True)
class Operation:
    """One equation, as a function of one input that depends on the image.

    Attributes:
        name: of the primitive, or of the compiled function.
        params: of the equation.
        known: the values of the inputs, None for those that depend on the image.
        shapes, dtypes: of the inputs.
        out, out_dtype: shape and type of the output.
        apply: the operation, as a function of the input at ``moving``; only if the others are known.
        moving: position of this input.
        inner: equations of the compiled function, if it is one.
        weights: of the input, if it is half of a spectrum.
    """

    name: str
    params: dict[str, Any]
    known: list[Any]
    shapes: list[tuple[int, ...]]
    dtypes: list[Any]
    out: tuple[int, ...]
    out_dtype: Any
    apply: Callable[[jax.Array], jax.Array]
    moving: int
    inner: tuple[Any, ...] = ()
    weights: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the input at ``moving``."""
        return self.shapes[self.moving]

    @property
    def complex(self) -> bool:
        """Return whether any input, or the output, is complex."""
        return any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in (*self.dtypes, self.out_dtype))

    @property
    def copied(self) -> tuple[int, ...] | None:
        """Return the axes of the output along which the input is copied; None if its shape does not determine them.

        JAX repeats single numbers and axes of length 1 without a ``broadcast_in_dim``.
        """
        if self.shape == ():
            return tuple(range(len(self.out)))
        sides = [*zip(self.shape, self.out, strict=False)]
        if len(self.shape) != len(self.out) or any(side not in (1, whole) for side, whole in sides):
            return None
        return tuple(axis for axis, (side, whole) in enumerate(sides) if side != whole)


def unbounded(reason: str) -> Gain:
    """Return no bound, because of ``reason``."""
    return Gain(math.inf, reason, False)


def jump(operation: Operation) -> str | None:
    """Return why an output of this type is a step function of the image, or None.

    Integers and truth values are step functions, and so are numbers rounded to fewer bits than float32 has.
    """
    source, target = operation.dtypes[operation.moving], operation.out_dtype
    if not jnp.issubdtype(target, jnp.inexact):
        return f"{target} that depends on the image jumps: integers and truth values have no slope"
    if not jnp.issubdtype(source, jnp.inexact):
        return None
    bits, kept = jnp.finfo(source).nmant, jnp.finfo(target).nmant
    if operation.name == "reduce_precision":
        kept = operation.params["mantissa_bits"]
    if kept < min(bits, FLOAT32_BITS):
        return f"rounding to {kept} bits ({target}) jumps; a bound needs float32"
    return None


def magnitudes(values: Any) -> np.ndarray:
    """Return absolute values in float64, of numbers of any type."""
    values = np.asarray(values)
    kind = np.complex128 if jnp.issubdtype(values.dtype, jnp.complexfloating) else np.float64
    return np.asarray(np.abs(values.astype(kind)))
