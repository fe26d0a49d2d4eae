"""Some channels of a map, and a map with channels of zeros between others: each is the other's transpose.

XLA transposes a choice of channels to a scatter. On two CPU cores that takes longer than the convolution before it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def pick(x: Float[Array, "*b c"], kept: tuple[int, ...]) -> Float[Array, "*b kept"]:
    """Return the channels ``kept``.

    >>> pick(jnp.array([5.0, 6.0, 7.0]), (0, 2)).tolist()
    [5.0, 7.0]
    """
    return pick_p.bind(x, kept=kept, count=x.shape[-1])


def spread(x: Float[Array, "*b kept"], kept: tuple[int, ...], count: int) -> Float[Array, "*b count"]:
    """Return ``count`` channels: those of ``x`` in the places ``kept``, and zeros.

    >>> spread(jnp.array([5.0, 7.0]), (0, 2), 4).tolist()
    [5.0, 0.0, 7.0, 0.0]
    """
    return spread_p.bind(x, kept=kept, count=count)


def _pick(x: Array, *, kept: tuple[int, ...], count: int) -> Array:
    return jnp.take(x, np.array(kept), axis=-1, mode="clip")


def _spread(x: Array, *, kept: tuple[int, ...], count: int) -> Array:
    places = np.full(count, len(kept))  # of a channel of zeros
    places[list(kept)] = np.arange(len(kept))
    return jnp.take(jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, 1)]), places, axis=-1, mode="clip")


pick_p, spread_p = Primitive("jaxiqa_pick"), Primitive("jaxiqa_spread")


def _define(operation: Primitive, compute: Any, transpose: Primitive, channels: Any) -> None:
    def batched(arrays: Any, axes: Any, **options: Any) -> tuple[Array, int]:
        return operation.bind(jnp.moveaxis(arrays[0], axes[0], 0), **options), 0

    operation.def_impl(jax.jit(compute, static_argnames=("kept", "count")))
    operation.def_abstract_eval(lambda x, **options: x.update(shape=(*x.shape[:-1], channels(**options))))
    mlir.register_lowering(operation, mlir.lower_fun(compute, multiple_results=False))
    ad.deflinear2(operation, lambda change, _, **options: [transpose.bind(change, **options)])
    batching.primitive_batchers[operation] = batched


_define(pick_p, _pick, spread_p, lambda kept, count: len(kept))
_define(spread_p, _spread, pick_p, lambda kept, count: count)
