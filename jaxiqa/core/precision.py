"""Computation in float32 for half-precision inputs, shared by `jaxiqa.ops` and `jaxiqa.layers`."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def at_least_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate ``function``: compute in float32 for half-precision inputs, and round once, at the end.

    The result has the type to which JAX promotes the types of the given arrays; scalars do not count. Inputs without
    half precision are passed unchanged.

    >>> at_least_float32(lambda x: (x * x).sum())(jnp.full(2, 300, jnp.float16) / 300).dtype
    dtype('float16')
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [x.dtype for x in jax.tree.leaves((args, kwargs)) if _is_float(x) and x.ndim]
        if not any(map(_is_half, given)):
            return function(*args, **kwargs)
        args, kwargs = jax.tree.map(
            lambda x: x.astype(jnp.float32) if _is_float(x) and _is_half(x.dtype) else x, (args, kwargs)
        )
        dtype = jnp.result_type(*given)
        # If another input is float64, the result stays float64.
        return jax.tree.map(
            lambda y: y.astype(dtype) if _is_float(y) and _is_half(dtype) else y, function(*args, **kwargs)
        )

    return computed


def _is_float(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)


def _is_half(dtype: Any) -> bool:
    return dtype.itemsize < 4
