"""How much one operation of a traced program can amplify a change of its input, in the Euclidean norm.

A rule sees an `Operation` with one input that depends on the image and gives a `Gain`; it never guesses: what it does
not know is `unbounded`, with the reason.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxiqa.lipschitz.spectral import SLACK, conv_norm, gram_bound, largest_norm


@dataclass(frozen=True)
class Gain:
    """What an operation does to distances: at most ``upper`` times; ``linear`` if a lower bound can be iterated."""

    upper: float
    method: str
    exact: bool = True
    linear: bool = False


@dataclass(frozen=True)
class Operation:
    """One equation with one input that depends on the image.

    Attributes:
        name: of the primitive, or of the compiled function.
        params: of the equation.
        known: the values of the inputs, None for the one that depends on the image.
        shapes: of the inputs.
        out: shape of the output.
        apply: the operation, as a function of that input.
        inner: equations of the compiled function, if it is one.
    """

    name: str
    params: dict[str, Any]
    known: list[Any]
    shapes: list[tuple[int, ...]]
    out: tuple[int, ...]
    apply: Callable[[jax.Array], jax.Array]
    inner: tuple[Any, ...] = ()

    @property
    def moving(self) -> int:
        """Position of the input that depends on the image."""
        return next(i for i, value in enumerate(self.known) if value is None)


def unbounded(reason: str) -> Gain:
    """No bound, because of ``reason``."""
    return Gain(math.inf, reason, False)


def _multiply(op: Operation) -> Gain:
    factor = np.asarray(op.known[1 - op.moving])
    return Gain(float(np.abs(factor).max(initial=0.0)), "largest factor")


def _divide(op: Operation) -> Gain:
    if op.moving == 1:
        return unbounded("division by a quantity that depends on the image")
    smallest = float(np.abs(np.asarray(op.known[1])).min(initial=math.inf))
    return Gain(1 / smallest, "smallest divisor") if smallest else unbounded("division by zero")


def _dot(op: Operation) -> Gain:
    (contract, batch) = op.params["dimension_numbers"]
    side = 1 - op.moving
    matrix = np.asarray(op.known[side])
    free = [axis for axis in range(matrix.ndim) if axis not in (*contract[side], *batch[side])]
    matrix = matrix.transpose(*batch[side], *contract[side], *free)
    split = len(batch[side]), len(batch[side]) + len(contract[side])
    rows, columns = (math.prod(matrix.shape[a:b]) for a, b in (split, (split[1], matrix.ndim)))
    found = largest_norm(matrix.reshape(*matrix.shape[: split[0]], rows, columns))
    return Gain(found.value, found.method, found.exact, linear=not found.exact)


def _conv(op: Operation) -> Gain:
    numbers, params = op.params["dimension_numbers"], op.params
    if (
        op.moving == 1
        or len(op.shapes[0]) != 4
        or params["batch_group_count"] != 1
        or set(params["lhs_dilation"]) != {1}
    ):
        return unbounded("a convolution other than of maps by a fixed kernel, without input dilation")
    out_axis, in_axis, *spatial = numbers.rhs_spec
    kernel = np.asarray(op.known[1]).transpose(*spatial, in_axis, out_axis)
    size = tuple(op.shapes[0][axis] for axis in numbers.lhs_spec[2:])
    options = {"stride": params["window_strides"], "dilation": params["rhs_dilation"]}
    bound = conv_norm(kernel, size, **options, groups=params["feature_group_count"])
    return Gain(bound.value, bound.method, bound.exact, linear=not bound.exact)


def _depthwise(op: Operation) -> Gain:
    if op.moving != 0:
        return unbounded("a kernel that depends on the image")
    kernel = np.asarray(op.known[1])
    convs = [eqn for eqn in op.inner if eqn.primitive.name == "conv_general_dilated"]
    shifts = [eqn for eqn in op.inner if eqn.primitive.name == "slice" and eqn.invars[0].aval.ndim == 4]
    stride = convs[0].params["window_strides"] if convs else (shifts[0].params["strides"] or (1, 1, 1, 1))[1:3]
    bound = conv_norm(kernel[:, :, None], op.shapes[0][1:3], stride=stride, groups=kernel.shape[-1])
    return Gain(bound.value, bound.method, bound.exact, linear=True)


def _grouped(op: Operation) -> Gain:
    if op.moving != 0:
        return unbounded("a kernel that depends on the image")
    kernel = np.asarray(op.known[1])
    stride = next(eqn for eqn in op.inner if eqn.primitive.name == "conv_general_dilated").params["window_strides"]
    bound = conv_norm(kernel, op.shapes[0][1:3], stride=stride, groups=op.shapes[0][3] // kernel.shape[2])
    return Gain(bound.value, bound.method, bound.exact, linear=not bound.exact)


def _wide(op: Operation) -> Gain:
    if op.moving != 0:
        return unbounded("a kernel that depends on the image")
    bound = conv_norm(np.asarray(op.known[1]), op.shapes[0][1:3])
    return Gain(bound.value, bound.method, bound.exact, linear=not bound.exact)


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


def _fft(op: Operation) -> Gain:
    kind, points = op.params["fft_type"], math.prod(op.params["fft_lengths"])
    kind = getattr(kind, "name", str(kind)).upper()
    inverse = kind in ("IFFT", "IRFFT")
    doubled = math.sqrt(2) if kind == "IRFFT" else 1.0  # half a spectrum counts its inner columns twice
    return Gain(doubled * (1 / math.sqrt(points) if inverse else math.sqrt(points)), "Fourier transform")


def _sum(op: Operation) -> Gain:
    return Gain(math.sqrt(math.prod(op.shapes[0]) // max(math.prod(op.out), 1)), "sum")


def _broadcast(op: Operation) -> Gain:
    return Gain(math.sqrt(math.prod(op.out) / max(math.prod(op.shapes[0]), 1)), "copies")


def _windows(shape: tuple[int, ...], params: dict[str, Any]) -> list[np.ndarray] | None:
    """Per axis, which values each window covers (0/1, ``windows side``); None for dilated windows."""
    if {*params.get("base_dilation", ()), *params.get("window_dilation", ())} - {1}:
        return None
    matrices = []
    sides = zip(shape, params["window_dimensions"], params["window_strides"], params["padding"], strict=True)
    for side, window, stride, (before, after) in sides:
        if window > 1 or stride > 1:
            starts, places = np.arange(-before, side + after - window + 1, stride)[:, None], np.arange(side)
            matrices.append((places >= starts) & (places < starts + window))
    return matrices


def _window_max(op: Operation, params: dict[str, Any] | None = None) -> Gain:
    matrices = _windows(op.shapes[0], params or op.params)
    if matrices is None:
        return unbounded("dilated windows")
    return Gain(math.sqrt(math.prod(int(m.sum(0).max()) for m in matrices)), "√ of the windows over a value")


def _window_sum(op: Operation) -> Gain:
    matrices = _windows(op.shapes[0], op.params)
    if matrices is None:
        return unbounded("dilated windows")
    return Gain(math.prod(np.linalg.norm(m.astype(float), 2) for m in matrices) * SLACK, "SVD per axis")


def _l2_pool(op: Operation) -> Gain:
    window = next(eqn for eqn in op.inner if eqn.primitive.name == "reduce_window_sum")
    return _window_max(op, window.params)


def _gather(op: Operation) -> Gain:
    if op.moving != 0:
        return unbounded("an index that depends on the image")
    shape = op.shapes[0]
    pull = jax.linear_transpose(op.apply, jax.ShapeDtypeStruct(shape, np.float32))
    counts = np.asarray(pull(np.ones(op.out, np.float32))[0])
    return Gain(math.sqrt(float(counts.max(initial=0.0))), "copies")


def _cast(op: Operation) -> Gain:
    kind = np.dtype(op.params["new_dtype"]).kind
    return Gain(1.0, "cast") if kind in "fcV" else unbounded("a cast to integers jumps")


def _only(op: Operation, place: int, gain: Gain) -> Gain:
    return gain if op.moving == place else unbounded("a setting that depends on the image")


def _constant(value: float, method: str) -> Callable[[Operation], Gain]:
    return lambda op: _only(op, 0, Gain(value, method))


def _leaky_relu(op: Operation) -> Gain:
    if op.moving != 0:
        return unbounded("a slope that depends on the image")
    return Gain(max(1.0, float(np.abs(np.asarray(op.known[1])).max())), "larger slope")


_ONE = (
    *("reshape", "transpose", "squeeze", "expand_dims", "slice", "rev", "copy", "copy_p", "sort", "real"),
    *("imag", "conj", "neg", "abs", "reduce_precision", "optimization_barrier", "sin", "cos", "add", "sub", "max"),
    *("min", "reduce_max", "reduce_min"),
)

RULES: dict[str, Callable[[Operation], Gain]] = {
    **{name: lambda op: Gain(1.0, "1") for name in _ONE},
    "pad": lambda op: _only(op, 0, Gain(1.0, "1")),
    "clamp": lambda op: _only(op, 1, Gain(1.0, "1")),
    "mul": _multiply,
    "div": _divide,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "fft": _fft,
    "reduce_sum": _sum,
    "broadcast_in_dim": _broadcast,
    "reduce_window_max": _window_max,
    "reduce_window_min": _window_max,
    "reduce_window_sum": _window_sum,
    "gather": _gather,
    "convert_element_type": _cast,
    "logistic": _constant(0.25, "slope at 0"),
    "tanh": _constant(1.0, "slope at 0"),
    "erf": _constant(2 / math.sqrt(math.pi), "slope at 0"),
}
"""Primitive -> its rule, where one input depends on the image."""

FUNCTIONS: dict[str, Callable[[Operation], Gain]] = {
    "depthwise_conv": _depthwise,
    "grouped_conv": _grouped,
    "wide_conv": _wide,
    "multiply_dense": _dense_frequencies,
    "multiply_reflection": _reflected_frequencies,
    "to_frequencies": _constant(1.0, "isometry (Parseval)"),
    "from_frequencies": _constant(1.0, "isometry (Parseval)"),
    "l2_pool": _l2_pool,
    "soft_threshold": _constant(1.0, "proximal map"),
    "max_min": _constant(1.0, "permutation"),
    "householder": _constant(1.0, "reflection"),
    "leaky_relu": _leaky_relu,
    "silu": _constant(1.0999, "largest slope"),
    "softplus": _constant(1.0, "largest slope"),
}
"""Name of a compiled function of this project or of `jax.nn` -> its rule, which is tighter than those of its parts."""
