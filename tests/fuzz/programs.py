"""Random programs of operations that have Lipschitz rules, for `test_fuzz_lipschitz`.

A program is a list of steps. Each step draws an operation and its operands from the values so far. Constants come from
the generator: the same for float32 (which the report traces) and float64 (for the true slope).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tests.fuzz.draws import LARGEST, Draws, Step, is_complex, real
from tests.fuzz.elementwise import activated, axis_of, clamped, of_two, reduced, stepped, unary, with_constant
from tests.fuzz.linear import convolved, multiplied, pooled, transformed
from tests.fuzz.shapes import chosen, copied, gathered, joined, padded, reshaped, sliced, written

OPERATIONS = [
    *(of_two(f) for f in (jnp.add, jnp.subtract) for _ in range(3)),
    *(of_two(f, real) for f in (jnp.maximum, jnp.minimum) for _ in range(2)),
    of_two(jax.lax.complex, real),
    *(with_constant(f) for f in (jnp.add, jnp.multiply, jnp.multiply, jnp.multiply)),
    with_constant(jnp.divide, nonzero=True),
    with_constant(jnp.maximum, real),
    *(reduced(f) for f in (jnp.sum, jnp.mean, jnp.mean)),
    *(reduced(f, lambda v: real(v) and v.ndim > 0) for f in (jnp.max, jnp.min)),
    axis_of(jnp.cumsum),
    *(
        axis_of(f, lambda v: real(v) and v.ndim > 0)
        for f in (jax.lax.cummax, jax.lax.cummin, jax.lax.cumlogsumexp, jnp.sort)
    ),
    unary(lambda x: jax.lax.top_k(x, 1)[0], lambda v: real(v) and v.ndim > 0),
    *(unary(f, real) for f in (jnp.sin, jnp.cos, jnp.tanh, jax.scipy.special.erf, jax.scipy.special.erfc)),
    *(unary(f, real) for f in (jnp.arctan, jnp.arcsinh, jax.nn.sigmoid, jax.nn.relu)),
    *(unary(f) for f in (jnp.negative, jnp.conj, jnp.real, jnp.imag, jnp.abs, jax.lax.stop_gradient)),
    *(unary(f, is_complex) for f in (jnp.sin, jnp.tanh, jnp.real, jnp.abs, jnp.imag)),
    *((reshaped, sliced, padded, copied, gathered, written, chosen, joined, clamped, multiplied) * 2),
    *((convolved, pooled, transformed, activated) * 4),
    stepped,
]


def draw(seed: int) -> tuple[Callable[[jax.Array], jax.Array], tuple[int, int, int]]:
    """A function of ``1 h w c`` made of three to eight operations, and (h, w, c)."""
    d = Draws(seed)
    size = d.one_of((4, 4, 3), (3, 5, 2), (6, 4, 1), (5, 6, 2), (1, 3, 3))
    d.values = [jax.ShapeDtypeStruct((1, *size), jnp.float32)]
    steps: list[Step] = []
    wanted, tries = d.integer(3, 8), 0
    while len(steps) < wanted and tries < 200:
        tries += 1
        try:
            step = d.one_of(*OPERATIONS)(d)
            found = jax.eval_shape(lambda *v, step=step: step(v), *d.values)
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            continue  # this operation does not accept such values
        if 0 < found.size <= LARGEST and jnp.issubdtype(found.dtype, jnp.inexact):
            steps.append(step)
            d.values.append(found)

    def program(x: jax.Array) -> jax.Array:
        values = [x]
        for step in steps:
            values.append(step(values))
        return values[-1]

    return program, size
