"""The loop of every iterative attack."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from jaxiqa.core.checks import check_count


def check_steps(steps: Any) -> None:
    """Check that ``steps`` is a whole number >= 1; otherwise raise ``ValueError``.

    >>> check_steps(0)
    Traceback (most recent call last):
    ValueError: steps=0 is not allowed; expected an integer >= 1
    """
    check_count("steps", steps, 1)


def iterate(step: Callable[..., Any], state: Any, steps: int, *constants: Any) -> Any:
    """Run ``state = step(state, *constants)`` ``steps`` times.

    On accelerators it is one compiled ``fori_loop``. On the CPU it is a Python loop over the compiled step, because
    XLA runs a convolution in a CPU loop body 1.4 to 48 times slower (jax#12868). Under an outer ``jit`` the CPU
    loop is unrolled into the caller's program, whose compile time then grows with ``steps``. Called eagerly, or
    under ``vmap`` alone, the step is compiled once.

    Args:
        step: a jitted module-level function (a new function object would be compiled again).
        state: pytree of arrays that changes from step to step.
        steps: number of steps.
        *constants: pytrees that stay the same.

    Returns:
        The last state.

    >>> double = jax.jit(lambda x, factor: x * factor)
    >>> float(iterate(double, jax.numpy.float32(1.0), 5, 2.0))
    32.0
    """
    if jax.default_backend() != "cpu":
        return _compiled_loop(step, state, steps, constants)
    for _ in range(steps):
        state = step(state, *constants)
    return state


@partial(jax.jit, static_argnames=("step", "steps"))
def _compiled_loop(step, state, steps, constants):
    return jax.lax.fori_loop(0, steps, lambda _, state: step(state, *constants), state)
