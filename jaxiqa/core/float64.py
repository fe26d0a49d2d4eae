"""Computation in float64 inside a float32 program, also of all derivatives.

``jax.enable_x64`` around a function is not enough: JAX transposes it later, when the mode is off again, and then mixes
both types. Here a function is one operation, whose derivatives are functions of the same kind, and the mode is on
whenever one of them is traced.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[..., tuple[jax.Array, ...]]


def in_float64(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate ``function``: compute in float64, also if JAX's x64 mode is off, and round the results once, at the end.

    All arguments are arrays of floating point, or pytrees of them. Results have the type to which JAX promotes theirs,
    at least float32. Derivatives in both modes and of every order, and batched forms, are computed in float64 too. A
    device without float64 cannot run it.

    >>> total, x = in_float64(lambda x: (x * x).sum()), jnp.array([1e4, 1.0])
    >>> float(total(x) - 1e8), float((x * x).sum() - 1e8), jax.grad(total)(x).tolist()
    (0.0, 0.0, [20000.0, 2.0])
    >>> cancels = in_float64(lambda x: (x + 1e8).sum() - 2e8)
    >>> cancels(x / 4).item()
    2500.25
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        given, tree = jax.tree.flatten((args, kwargs))
        given = [jnp.asarray(x) for x in given]
        dtype = jnp.result_type(jnp.float32, *given)
        structure: list[Any] = []

        def flat(*values: jax.Array) -> tuple[jax.Array, ...]:
            args, kwargs = jax.tree.unflatten(tree, [value.astype(jnp.float64) for value in values])
            results, found = jax.tree.flatten(function(*args, **kwargs))
            structure[:] = [found]
            return tuple(result.astype(dtype) for result in results)

        results = float64_p.bind(*given, function=flat)  # calls `flat`, if only for its shapes
        return jax.tree.unflatten(structure[0], results)

    return computed


float64_p = Primitive("float64")
"""``function(*arrays)``, a tuple of arrays, traced in x64 mode."""
float64_p.multiple_results = True


def _traced(*arrays: jax.Array, function: Function) -> tuple[jax.Array, ...]:
    with jax.enable_x64(True):
        return function(*arrays)


def _shapes(*arrays: Any, function: Function) -> list[Any]:
    with jax.enable_x64(True):
        given = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
        found = jax.eval_shape(function, *given)
    return [arrays[0].update(shape=one.shape, dtype=one.dtype, weak_type=False) for one in found]


def _forward(primals: Any, tangents: Any, *, function: Function) -> tuple[Any, Any]:
    """Return the results, and their changes as one operation that is linear in the tangents that are not zero."""
    moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def changes(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        values, directions = arrays[: len(primals)], arrays[len(primals) :]

        def of_moving(*some: jax.Array) -> tuple[jax.Array, ...]:
            every = list(values)
            for i, one in zip(moving, some, strict=True):
                every[i] = one
            return function(*every)

        return jax.jvp(of_moving, tuple(values[i] for i in moving), directions)[1]

    results = float64_p.bind(*primals, function=function)
    return results, float64_p.bind(*primals, *(tangents[i] for i in moving), function=changes)


def _transpose(cotangents: Any, *arrays: Any, function: Function) -> list[Any]:
    linear = [i for i, array in enumerate(arrays) if ad.is_undefined_primal(array)]
    known = [array for i, array in enumerate(arrays) if i not in linear]
    places = [jax.ShapeDtypeStruct(arrays[i].aval.shape, arrays[i].aval.dtype) for i in linear]
    cotangents = [ad.instantiate_zeros(one) for one in cotangents]

    def transposed(*given: jax.Array) -> tuple[jax.Array, ...]:
        fixed, changes = given[: len(known)], given[len(known) :]

        def of_linear(*some: jax.Array) -> tuple[jax.Array, ...]:
            left, moving = iter(fixed), iter(some)
            return function(*[next(moving) if i in linear else next(left) for i in range(len(arrays))])

        return jax.linear_transpose(of_linear, *places)(changes)

    found = iter(float64_p.bind(*known, *cotangents, function=transposed))
    return [next(found) if i in linear else None for i in range(len(arrays))]


def _batch(arrays: Any, axes: Any, *, function: Function) -> tuple[Any, list[int]]:
    results = float64_p.bind(*arrays, function=jax.vmap(function, in_axes=tuple(axes)))
    return results, [0] * len(results)


float64_p.def_impl(_traced)
float64_p.def_abstract_eval(_shapes)
mlir.register_lowering(float64_p, mlir.lower_fun(_traced, multiple_results=True))
ad.primitive_jvps[float64_p] = _forward
ad.primitive_transposes[float64_p] = _transpose
batching.primitive_batchers[float64_p] = _batch
