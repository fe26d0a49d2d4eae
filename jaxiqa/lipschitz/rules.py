"""Rules: how much each operation of a traced program can amplify a change of the image, in the Euclidean norm.

A rule takes an `Operation` with one input that depends on the image, and returns a `Gain`. It states for which types,
shapes and settings it holds, and never guesses: otherwise it returns `unbounded` with the reason.
"""

import math
from collections.abc import Callable

from jaxiqa.lipschitz.elementwise import ELEMENTWISE
from jaxiqa.lipschitz.functions import FUNCTIONS
from jaxiqa.lipschitz.linear import LINEAR
from jaxiqa.lipschitz.operation import Gain, Operation, unbounded
from jaxiqa.lipschitz.shapes import SHAPES

__all__ = ["FUNCTIONS", "JOINS", "RULES", "SEVERAL_RESULTS", "Gain", "Operation", "unbounded"]

RULES: dict[str, Callable[[Operation], Gain]] = {**ELEMENTWISE, **LINEAR, **SHAPES}
"""Primitive -> its rule, for one input that depends on the image."""

_SUM = ("sum of paths (a residual is 1 + L)", sum)
_CHOICE = ("joined paths (root of the sum of squares)", lambda shares: math.hypot(*shares))

JOINS: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    **dict.fromkeys(("add", "sub", "add_any", "scatter-add"), _SUM),
    **dict.fromkeys(
        ("concatenate", "stack", "max", "min", "clamp", "select_n", "dynamic_update_slice", "scatter"), _CHOICE
    ),
    "complex": ("real and imaginary parts", lambda shares: math.hypot(*shares)),
}
"""Primitive -> how to join the bounds of several inputs that depend on the image.

In general they add up. If every entry of the output is an entry of one input, their squares add up.
"""

SEVERAL_RESULTS = {"split", "unstack", "top_k"}
"""Primitives with several results whose rule holds for each of them."""
