"""Compiled functions that only move entries, such as `jnp.roll`: their gain, by moving the indices of the entries.

The rules of their parts are loose: a slice has gain 1, so two halves that are joined again would have √2.
"""

import math
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxiqa.lipschitz.operation import Gain
from jaxiqa.lipschitz.trace import called

MOVES = {"slice", "concatenate", "reshape", "transpose", "rev", "squeeze", "copy", "split"}
"""Primitives whose results are entries of their inputs, and nothing else."""


def only_moves(program: ClosedJaxpr) -> bool:
    """Return whether every equation, also of inner functions, is one of `MOVES`, with one input and one result."""
    jaxpr = program.jaxpr
    single = len(jaxpr.invars) == len(jaxpr.outvars) == 1 and not jaxpr.constvars
    return single and bool(jaxpr.eqns) and all(_moves(eqn) for eqn in jaxpr.eqns)


def movement(program: ClosedJaxpr, shape: tuple[int, ...]) -> Gain:
    """Return the exact gain of a function for which `only_moves`: √n, if no entry appears more than n times.

    >>> import jax, jax.numpy as jnp
    >>> program = jax.make_jaxpr(lambda x: jnp.concatenate([x[1:], x[:1]]))(jnp.zeros(5))
    >>> only_moves(program), movement(program, (5,)).upper
    (True, 1.0)
    """
    places = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    counts = np.bincount(np.asarray(_run(program, places)).ravel(), minlength=1)
    return Gain(math.sqrt(int(np.max(counts))), "moves entries")


def _run(program: ClosedJaxpr, *arguments: Any) -> Any:
    """Compute a program of `MOVES` for any type of entries; its own types are not used."""
    values: dict[Any, Any] = dict(zip(program.jaxpr.invars, arguments, strict=True))
    for eqn in program.jaxpr.eqns:
        inner, inputs = called(eqn), [values[variable] for variable in eqn.invars]
        found = _run(inner, *inputs) if inner else eqn.primitive.bind(*inputs, **eqn.params)
        several = eqn.primitive.multiple_results and inner is None
        values.update(zip(eqn.outvars, found if several else [found], strict=True))
    return values[program.jaxpr.outvars[0]]


def _moves(eqn: Any) -> bool:
    inner = called(eqn)
    if any(hasattr(variable, "val") for variable in eqn.invars):  # a constant
        return False
    if inner is not None:
        return only_moves(inner)
    return eqn.primitive.name in MOVES
