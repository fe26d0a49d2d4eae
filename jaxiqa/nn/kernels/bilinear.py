"""Operations that are linear in each of two operands, with algorithms of their own for both derivatives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

ROLES = (("x", "kernel", "change"), ("change", "kernel", "x"), ("x", "change", "kernel"))
"""What the two operands of each operation and its result are. ⟨forward(x, kernel), change⟩ is linear in all three, and
each operation is its derivative by one of them. So every transpose of one is another of them."""

Several = Callable[[Callable[..., Array], list[Array]], tuple[Array, int]]


def bilinear(
    name: str,
    computations: tuple[Callable[..., Array], Callable[..., Array], Callable[..., Array]],
    *,
    options: tuple[str, ...],
    several: Several | None = None,
) -> tuple[Primitive, Primitive, Primitive]:
    """Return ``forward(x, kernel)``, ``by_x(change, kernel)`` and ``by_kernel(x, change)`` as primitives of JAX.

    They can be derived in both modes, any number of times, and batched.

    Args:
        name: of the first; those of the others end with ``_by_x`` and ``_by_kernel``.
        computations: the algorithms. ⟨forward(x, kernel), change⟩ = ⟨x, by_x(change, kernel)⟩ =
            ⟨kernel, by_kernel(x, change)⟩. The first axis of ``x`` and ``change`` is that of independent images.
        options: names of their keyword arguments, which are not arrays.
        several: ``(operation, operands with a new first axis) -> result, its new axis``, for a batch of kernels; None:
            `jax.vmap` of the algorithm.
    """
    operations = Primitive(name), Primitive(f"{name}_by_x"), Primitive(f"{name}_by_kernel")
    for roles, operation, compute in zip(ROLES, operations, computations, strict=True):
        operation.def_impl(jax.jit(compute, static_argnames=options))
        operation.def_abstract_eval(partial(_shaped, compute))
        mlir.register_lowering(operation, mlir.lower_fun(compute, multiple_results=False))
        ad.defbilinear(operation, *(_transposed(operations, roles, place) for place in (0, 1)))
        batching.primitive_batchers[operation] = partial(_batched, operation, compute, roles, several)
    return operations


def _shaped(compute: Callable, x: Any, y: Any, **options: Any) -> Any:
    return x.update(shape=jax.eval_shape(partial(compute, **options), x, y).shape)


def _transposed(operations: tuple[Primitive, ...], roles: tuple[str, str, str], place: int) -> Any:
    """Return the rule ``(change of the result, operands) -> change of the operand at this place``."""
    (other,) = (number for number, found in enumerate(ROLES) if found[2] == roles[place])

    def rule(change: Any, *operands: Any, **options: Any) -> Any:
        given = dict(zip(roles, (*operands, change), strict=True))
        return operations[other].bind(*(given[role] for role in ROLES[other][:2]), **options)

    return rule


def _batched(
    operation: Primitive,
    compute: Callable,
    roles: tuple[str, str, str],
    several: Several | None,
    arrays: Any,
    axes: Any,
    **options: Any,
) -> tuple[Array, int]:
    count = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    moved = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arrays, axes, strict=True)]
    if axes[1] is None and roles[1] == "kernel":  # all share one kernel: more images
        found = operation.bind(moved[0].reshape(-1, *moved[0].shape[2:]), moved[1], **options)
        return found.reshape(count, -1, *found.shape[1:]), 0
    if several is None:
        return jax.vmap(partial(compute, **options), [None if axis is None else 0 for axis in axes])(*moved), 0
    full = [jnp.broadcast_to(x, (count, *x.shape)) if axis is None else x for x, axis in zip(moved, axes, strict=True)]
    return several(partial(operation.bind, **options), full)
