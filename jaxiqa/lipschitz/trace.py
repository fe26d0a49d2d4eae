"""Parts of a traced program: values, equations, and equations that call other programs."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxiqa.lipschitz.operation import Operation

_CALLS = {"jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat", "checkpoint", "remat2"}
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Known(NamedTuple):
    """A value that does not depend on the image, and the paths of its weights."""

    value: Any
    origin: frozenset[str] = frozenset()


class Moving(NamedTuple):
    """A value that depends on the image, its bound, and the weights of the norm of this bound, if any."""

    bound: float
    weights: np.ndarray | None = None


def operation_of(
    eqn: Any, inputs: list, place: int, output: Any, *, name: str | None = None, inner: ClosedJaxpr | None = None
) -> Operation:
    """Return the operation that computes ``output``, as a function of the input at ``place``."""

    def apply(x: jax.Array) -> jax.Array:
        values = [x if i == place else value.value for i, value in enumerate(inputs)]
        return jaxpr_as_fun(inner)(*values)[0] if inner else bind(eqn, values)

    return Operation(
        name=name or eqn.primitive.name,
        params=eqn.params,
        known=[value.value if isinstance(value, Known) else None for value in inputs],
        shapes=[tuple(variable.aval.shape) for variable in eqn.invars],
        dtypes=[variable.aval.dtype for variable in eqn.invars],
        out=tuple(output.aval.shape),
        out_dtype=output.aval.dtype,
        apply=apply,
        moving=place,
        inner=equations(inner) if inner else (),
        weights=inputs[place].weights,
    )


def bind(eqn: Any, values: list) -> Any:
    """Compute an equation."""
    return eqn.primitive.bind(*values, **eqn.params)


def called(eqn: Any) -> ClosedJaxpr | None:
    """Return the program that this equation calls, if it does nothing else."""
    if eqn.primitive.name not in _CALLS:
        return None
    inner = next(eqn.params[key] for key in _INNER if key in eqn.params)
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def equations(program: ClosedJaxpr) -> tuple[Any, ...]:
    """Return all equations; calls are replaced by the equations of the called programs."""
    found: list[Any] = []
    for eqn in program.jaxpr.eqns:
        inner = called(eqn)
        found += [eqn] if inner is None else equations(inner)
    return tuple(found)
