"""Rules of elementwise operations."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxiqa.lipschitz.operation import Gain, Operation, magnitudes, unbounded

SLOPES = {
    **{"sin": 1.0, "cos": 1.0, "tanh": 1.0, "atan": 1.0, "asinh": 1.0},
    **{"logistic": 0.25, "erf": 2 / math.sqrt(math.pi), "erfc": 2 / math.sqrt(math.pi)},
}
"""Largest slopes on the real line. On the complex plane, none of these functions has a largest slope."""


def slope(value: float) -> Callable[[Operation], Gain]:
    """Return the rule of a function of real numbers whose largest slope is ``value``."""

    def rule(op: Operation) -> Gain:
        return unbounded(f"{op.name} of complex numbers") if op.complex else Gain(value, "largest slope")

    return rule


def entrywise(op: Operation, value: Any, method: str) -> Gain:
    """Return the gain of an elementwise function with slopes of at most ``value``, including the copies it makes.

    Args:
        op: the operation.
        value: one number, or one for each entry of the output.
        method: how the slopes were found.
    """
    if op.copied is None:
        return unbounded("operands of different shapes")
    largest = magnitudes(value)
    if op.copied:
        copies = np.square(np.broadcast_to(largest, op.out)).sum(op.copied)
        return Gain(float(np.sqrt(copies.max(initial=0.0))), f"copies, norm of {method}s")
    return Gain(float(largest.max(initial=0.0)), f"largest {method}")


def one(op: Operation) -> Gain:
    """Rule of operations that change no distance, or only shrink it: conjugates, absolute values, casts."""
    return Gain(1.0, "1")


def part(op: Operation) -> Gain:
    """Rule of one operand of a sum or of a choice: 1, or √n if one number is combined with n."""
    if op.copied is None:
        return unbounded("operands of different shapes")
    return Gain(math.sqrt(math.prod(op.out[axis] for axis in op.copied)), "copies" if op.copied else "1")


def ordered_part(op: Operation) -> Gain:
    """Rule of the larger, the smaller, or the clamped: as `part`; complex comparison is by parts and jumps."""
    return unbounded(f"{op.name} of complex numbers jumps") if op.complex else part(op)


def chosen_part(op: Operation) -> Gain:
    """Rule of one case of ``select_n``."""
    if op.known[0] is None:
        return unbounded("a choice that depends on the image jumps")
    return part(op)


def multiply(op: Operation) -> Gain:
    """Rule of products with known factors: the largest factor, or the norm of those multiplied with one number."""
    factor = op.known[1 - op.moving]
    if factor is None:
        return unbounded("a product of two quantities that depend on the image, such as attention")
    return entrywise(op, factor, "factor")


def divide(op: Operation) -> Gain:
    """Rule of division by known divisors: the smallest one determines the gain."""
    if op.known[1] is None:
        return unbounded("division by a quantity that depends on the image")
    divisor = magnitudes(op.known[1])
    if not divisor.all():
        return unbounded("division by zero")
    return entrywise(op, 1 / divisor, "inverse divisor")


def power(op: Operation) -> Gain:
    """``integer_pow``: bounded for the exponents 0 and 1 only."""
    exponent = op.params["y"]
    if exponent in (0, 1):
        return Gain(float(exponent), "exponent")
    return unbounded(f"no rule for integer_pow with exponent {exponent}: its slope is not bounded")


ELEMENTWISE: dict[str, Callable[[Operation], Gain]] = {
    **{name: slope(value) for name, value in SLOPES.items()},
    **dict.fromkeys(("neg", "conj", "real", "imag", "abs", "copy", "copy_p", "stop_gradient", "name"), one),
    **dict.fromkeys(("reduce_precision", "convert_element_type", "sharding_constraint"), one),
    **dict.fromkeys(("add", "sub", "add_any", "complex"), part),
    **dict.fromkeys(("max", "min", "clamp"), ordered_part),
    "select_n": chosen_part,
    "mul": multiply,
    "div": divide,
    "integer_pow": power,
}
"""Primitive -> its rule, for one input that depends on the image."""
