"""Rules of compiled functions of this project and of `jax.nn`, tighter than the rules of their parts.

A traced program stores such a function under its name. Another function may have the same name, and JAX also keeps the
name for a derivative or a batched form. So the function is traced again for the same inputs, and its rule is used only
if the two programs are equal, equation by equation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxiqa.layers.activations import beta_abs, householder, max_min
from jaxiqa.layers.blur import binomial_blur_3, binomial_blur_5
from jaxiqa.layers.fourier import from_frequencies, to_frequencies
from jaxiqa.layers.pooling import global_l2_pool, l2_pool
from jaxiqa.layers.shrinkage import soft_threshold
from jaxiqa.layers.smooth_relu import smooth_relu6
from jaxiqa.layers.spectrum import multiply_dense, multiply_reflection
from jaxiqa.layers.wavelet_shrinkage import wavelet_shrink
from jaxiqa.lipschitz import spectrum
from jaxiqa.lipschitz.elementwise import entrywise, slope
from jaxiqa.lipschitz.operation import Gain, Operation, of_map, unbounded
from jaxiqa.lipschitz.shapes import window_max
from jaxiqa.lipschitz.spectral import SLACK, conv_norm, gram_bound, largest_norm
from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.wide import wide_conv

ACTIVATION_SLOPES = {
    "silu": 1.0998393201288669,  # at x = 2.3994, where x·tanh(x / 2) = 2
    "mish": 1.088498161251728,  # at x = 1.4906
    "selu": 1.0507009873554805 * 1.6732632423543772,  # as x rises to 0
    "hard_silu": 1.5,  # as x rises to 3
    **dict.fromkeys(("softplus", "soft_sign", "hard_tanh", "sparse_plus"), 1.0),
}
"""Largest slopes of functions of `jax.nn`."""


@dataclass(frozen=True)
class Function:
    """A function with a rule of its own.

    Attributes:
        original: the function.
        rule: its rule.
        options: reads its static arguments from an operation of this name.
    """

    original: Callable[..., Any]
    rule: Callable[[Operation], Gain]
    options: Callable[[Operation], dict[str, Any]] = lambda op: {}

    def gain(self, op: Operation, program: ClosedJaxpr) -> Gain:
        """Return the gain of the rule, or no bound if ``program`` is not that of the function."""
        avals: list[Any] = [v.aval for v in program.jaxpr.invars]
        arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in avals]
        options = self.options(op)
        try:
            traced = jax.make_jaxpr(lambda *given: self.original(*given, **options))(*arguments)
        except (TypeError, ValueError):  # the function does not accept these arguments
            return unbounded("another function of this name")
        own = traced.jaxpr.eqns[0].params.get("jaxpr") if len(traced.jaxpr.eqns) == 1 else None
        same = own is not None and _same_setting(own, program)
        return self.rule(op) if same else unbounded("another function of this name")


def _same(a: Jaxpr, b: Jaxpr) -> bool:
    """Return whether two programs are equal, except for the names of their variables."""
    twin: dict[Any, Any] = {}

    def define(first: list, second: list) -> bool:
        twin.update(zip(first, second, strict=False))
        shapes = [[(v.aval.shape, v.aval.dtype) for v in variables] for variables in (first, second)]
        return shapes[0] == shapes[1]

    def agree(first: list, second: list) -> bool:
        if len(first) != len(second):
            return False
        pairs = zip(first, second, strict=True)
        literal = [hasattr(u, "val") and hasattr(v, "val") and np.array_equal(u.val, v.val) for u, v in pairs]
        found = zip(first, second, literal, strict=True)
        return all(equal or (not hasattr(u, "val") and twin.get(u) is v) for u, v, equal in found)

    if not define([*a.constvars, *a.invars], [*b.constvars, *b.invars]) or len(a.eqns) != len(b.eqns):
        return False
    for p, q in zip(a.eqns, b.eqns, strict=True):
        if p.primitive is not q.primitive or p.params.keys() != q.params.keys() or not agree(p.invars, q.invars):
            return False
        if not all(_same_setting(p.params[key], q.params[key]) for key in p.params):
            return False
        if not define(p.outvars, q.outvars):
            return False
    return agree(a.outvars, b.outvars)


def _same_setting(first: Any, second: Any) -> bool:
    if isinstance(first, ClosedJaxpr | Jaxpr) and isinstance(second, ClosedJaxpr | Jaxpr):
        consts = [getattr(program, "consts", ()) for program in (first, second)]
        same = len(consts[0]) == len(consts[1]) and all(map(np.array_equal, *consts))
        return same and _same(*(getattr(program, "jaxpr", program) for program in (first, second)))
    if all(callable(one) or hasattr(one, "call_wrapped") for one in (first, second)):
        return True  # a derivative rule, which does not change the value
    return bool(first == second)


def _padding(op: Operation) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding of the maps, read from the equation that pads or convolves."""
    for eqn in op.inner:
        if eqn.primitive.name == "conv_general_dilated":
            (above, below), (left, right) = eqn.params["padding"]
            return (int(above), int(below)), (int(left), int(right))
        if eqn.primitive.name == "pad" and len(eqn.params["padding_config"]) == 4:
            (above, below, _), (left, right, _) = eqn.params["padding_config"][1:3]
            return (int(above), int(below)), (int(left), int(right))
    return (0, 0), (0, 0)


def _stride(op: Operation) -> tuple[int, int]:
    """Return the stride over the maps; 1 if the output has only one position."""
    for eqn in op.inner:
        if eqn.primitive.name == "conv_general_dilated":
            return int(eqn.params["window_strides"][0]), int(eqn.params["window_strides"][1])
        if eqn.primitive.name == "slice" and eqn.invars[0].aval.ndim == 4 and eqn.params["strides"]:
            return int(eqn.params["strides"][1]), int(eqn.params["strides"][2])
    return 1, 1


def _precision(op: Operation) -> Any:
    found = (eqn.params["precision"] for eqn in op.inner if "precision" in eqn.params)
    return next(found, None)


def _kernel(op: Operation) -> np.ndarray | None:
    return np.asarray(op.known[1]) if op.moving == 0 else None


def _grouped(op: Operation) -> Gain:
    kernel = _kernel(op)
    if kernel is None:
        return unbounded("a kernel that depends on the image")
    return of_map(
        conv_norm(kernel, (op.shape[1], op.shape[2]), stride=_stride(op), groups=op.shape[3] // kernel.shape[2])
    )


def _wide(op: Operation) -> Gain:
    kernel = _kernel(op)
    if kernel is None:
        return unbounded("a kernel that depends on the image")
    return of_map(conv_norm(kernel, (op.shape[1], op.shape[2])))


def _dense_frequencies(op: Operation) -> Gain:
    if op.moving != 1:
        return unbounded("matrices that depend on the image")
    found = largest_norm(np.asarray(op.known[0]))
    rest = 1.0 if len(op.known) > 2 else 0.0  # frequencies outside the band
    return Gain(max(found.value, rest), f"{found.method} per frequency", found.exact)


def _reflected_frequencies(op: Operation) -> Gain:
    if op.moving != 1:
        return unbounded("matrices that depend on the image")
    basis = np.asarray(op.known[0], np.complex128)
    values = np.linalg.svd(basis, compute_uv=False) if basis.shape[-1] <= 96 else gram_bound(basis)
    return Gain(max(1.0, float(2 * values.max() ** 2 - 1)) * SLACK, "SVD of the basis per frequency")


def _l2_pool(op: Operation) -> Gain:
    window = next(eqn for eqn in op.inner if eqn.primitive.name == "reduce_window_sum")
    return unbounded("l2_pool of complex numbers") if op.complex else window_max(op, window.params)


def _global_pool(op: Operation) -> Gain:
    return unbounded("global_l2_pool of complex numbers") if op.complex else Gain(1.0, "Euclidean norm")


def _changed_channels(op: Operation) -> dict[str, Any]:
    """Read the number k of channels that `beta_abs` changes; any share in [k/c, (k + 1)/c) changes as many."""
    k = next((int(eqn.invars[1].val) for eqn in op.inner if eqn.primitive.name == "lt"), 0)
    return {"share": min(1.0, (k + 0.5) / op.shape[-1])}


def _l2_pool_options(op: Operation) -> dict[str, Any]:
    for eqn in op.inner:
        if eqn.primitive.name == "reduce_window_sum" and len(eqn.params["window_dimensions"]) > 1:
            return {"window": int(eqn.params["window_dimensions"][1]), "stride": int(eqn.params["window_strides"][1])}
    return {"window": 1}


def _soft_threshold(op: Operation) -> Gain:
    if op.moving != 0:
        return unbounded("a threshold that depends on the image")
    if not (np.asarray(op.known[1]) >= 0).all():
        return unbounded("a negative threshold: it jumps at 0")
    return Gain(1.0, "proximal map") if op.shape == op.out else unbounded("thresholds of another shape than the input")


def _wavelet_shrink(op: Operation) -> Gain:
    if op.complex or op.moving != 0:
        return unbounded("complex numbers, or a threshold that depends on the image")
    if not (np.asarray(op.known[1]) >= 0).all():
        return unbounded("a negative threshold: it sharpens")
    if op.shape != op.out:
        return unbounded("thresholds of another shape than the input")
    return Gain(1.0, "proximal map in a tight frame")


def _levels(op: Operation) -> dict[str, Any]:
    """Read the number of levels of `wavelet_shrink`, each with details of three kinds."""
    return {"levels": sum(eqn.primitive.name == "max" for eqn in op.inner) // 3}


def _real(method: str) -> Callable[[Operation], Gain]:
    """Return the rule of a 1-Lipschitz map of real numbers; only its first input may depend on the image."""

    def rule(op: Operation) -> Gain:
        if op.complex or op.moving != 0:
            return unbounded(f"{op.name} of complex numbers, or of settings that depend on the image")
        return Gain(1.0, method) if op.shape == op.out else unbounded("a setting of another shape than the maps")

    return rule


def _scaled_below(op: Operation) -> Gain:
    """Rule of leaky ReLU and ELU: slope 1 above 0, and at most their setting below."""
    if op.complex or op.moving != 0:
        return unbounded("complex numbers, or a slope that depends on the image")
    below = op.known[1] if len(op.known) > 1 else 1.0  # default slopes are at most 1
    return max(entrywise(op, 1.0, "slope"), entrywise(op, below, "slope"), key=lambda gain: gain.upper)


def _positive_setting(op: Operation) -> Gain:
    """Rule of CELU and squareplus: slopes of at most 1 for a positive setting, otherwise steep."""
    if op.complex or op.moving != 0:
        return unbounded("complex numbers, or a setting that depends on the image")
    if len(op.known) > 1 and not (np.asarray(op.known[1]) > 0).all():
        return unbounded(f"a setting of {op.name} that is not positive")
    return entrywise(op, 1.0, "slope")


def _norm(op: Operation) -> Gain:
    """Rule of Euclidean norms, over any axes."""
    return unbounded("a norm of complex numbers") if op.complex else Gain(1.0, "Euclidean norm")


def _norm_options(op: Operation) -> dict[str, Any]:
    axes = next((tuple(eqn.params["axes"]) for eqn in op.inner if eqn.primitive.name == "reduce_sum"), ())
    axis = axes[0] if len(axes) == 1 else None if len(axes) == len(op.shape) else axes
    return {"axis": axis, "keepdims": len(op.out) == len(op.shape)}


FUNCTIONS: dict[str, Function] = {
    "grouped_conv": Function(
        grouped_conv,
        _grouped,
        lambda op: {"stride": _stride(op), "padding": _padding(op), "precision": _precision(op)},
    ),
    "wide_conv": Function(wide_conv, _wide, lambda op: {"padding": _padding(op), "precision": _precision(op)}),
    "multiply_dense": Function(multiply_dense, _dense_frequencies),
    "multiply_reflection": Function(multiply_reflection, _reflected_frequencies),
    "to_frequencies": Function(to_frequencies, spectrum.to_frequencies),
    "from_frequencies": Function(from_frequencies, spectrum.from_frequencies, lambda op: {"size": op.out[1:3]}),
    "l2_pool": Function(l2_pool, _l2_pool, _l2_pool_options),
    "global_l2_pool": Function(global_l2_pool, _global_pool),
    "soft_threshold": Function(soft_threshold, _soft_threshold),
    "wavelet_shrink": Function(wavelet_shrink, _wavelet_shrink, _levels),
    "binomial_blur_3": Function(binomial_blur_3, _real("symmetric, rows of weights")),
    "binomial_blur_5": Function(binomial_blur_5, _real("symmetric, rows of weights")),
    "max_min": Function(max_min, _real("permutation")),
    "beta_abs": Function(beta_abs, _real("absolute values"), _changed_channels),
    "householder": Function(householder, _real("reflection")),
    "smooth_relu6": Function(smooth_relu6, slope(1.0)),
    "norm": Function(jnp.linalg.norm, _norm, _norm_options),
    "leaky_relu": Function(jax.nn.leaky_relu, _scaled_below),
    "elu": Function(jax.nn.elu, _scaled_below),
    "celu": Function(jax.nn.celu, _positive_setting),
    "squareplus": Function(jax.nn.squareplus, _positive_setting),
    **{name: Function(getattr(jax.nn, name), slope(value)) for name, value in ACTIVATION_SLOPES.items()},
}
"""Name of a compiled function -> the function and its rule."""
