"""Rules of linear operations that mix entries: products with matrices, convolutions, sums."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxiqa.lipschitz import spectrum
from jaxiqa.lipschitz.operation import Gain, Operation, of_map, unbounded
from jaxiqa.lipschitz.spectral import SLACK, conv_norm, largest_norm
from jaxiqa.nn.kernels import depthwise as shifted
from jaxiqa.nn.kernels import product

PRODUCT = "a product of two quantities that depend on the image, such as attention"


def dot(op: Operation) -> Gain:
    """``dot_general`` with a known matrix on either side."""
    (contract, batch) = op.params["dimension_numbers"]
    side = 1 - op.moving
    if op.known[side] is None:
        return unbounded(PRODUCT)
    matrix = np.asarray(op.known[side])
    free = [axis for axis in range(matrix.ndim) if axis not in (*contract[side], *batch[side])]
    matrix = matrix.transpose(*batch[side], *contract[side], *free)
    split = len(batch[side]), len(batch[side]) + len(contract[side])
    rows, columns = (math.prod(matrix.shape[a:b]) for a, b in (split, (split[1], matrix.ndim)))
    return of_map(largest_norm(matrix.reshape(*matrix.shape[: split[0]], rows, columns)))


def convolution(op: Operation) -> Gain:
    """``conv_general_dilated`` of maps by a known kernel, with zero padding and without input dilation."""
    numbers, params = op.params["dimension_numbers"], op.params
    if op.known[1 - op.moving] is None:
        return unbounded(PRODUCT)
    if (
        op.moving == 1
        or len(op.shapes[0]) != 4
        or params["batch_group_count"] != 1
        or set(params["lhs_dilation"]) != {1}
    ):
        return unbounded("a convolution other than of maps by a fixed kernel, without input dilation")
    out_axis, in_axis, *spatial = numbers.rhs_spec
    kernel = np.asarray(op.known[1]).transpose(*spatial, in_axis, out_axis)
    h, w = (op.shapes[0][axis] for axis in numbers.lhs_spec[2:])
    options = {"stride": params["window_strides"], "dilation": params["rhs_dilation"]}
    return of_map(conv_norm(kernel, (h, w), **options, groups=params["feature_group_count"]))


def depthwise(op: Operation) -> Gain:
    """The depthwise convolution of CPUs by a known kernel, or its transpose."""
    if op.moving == 1 or op.known[1] is None:
        return unbounded(PRODUCT)
    kernel = np.asarray(op.known[1])
    return of_map(conv_norm(kernel[:, :, None], op.params["size"], stride=op.params["stride"], groups=kernel.shape[-1]))


def channels(op: Operation) -> Gain:
    """The product of the channels of each pixel and a known matrix, or its transpose."""
    if op.moving == 1 or op.known[1] is None:
        return unbounded(PRODUCT)
    return of_map(largest_norm(np.asarray(op.known[1])[None]))


def total(op: Operation) -> Gain:
    """``reduce_sum``: the gain of a sum of n entries is √n, reached if all are equal."""
    return Gain(math.sqrt(math.prod(op.shape) // max(math.prod(op.out), 1)), "sum")


def running_sum(op: Operation) -> Gain:
    """``cumsum`` along n entries: the largest singular value of the triangle of ones, 1 / (2 sin(π / (4n + 2)))."""
    n = op.shape[op.params["axis"]]
    return Gain(1 / (2 * math.sin(math.pi / (4 * n + 2))) * SLACK, "triangle of ones")


def windows(shape: tuple[int, ...], params: dict[str, Any]) -> list[np.ndarray] | None:
    """Return, per axis, which values each window covers (0/1, ``windows side``); None for dilated windows."""
    if {*params.get("base_dilation", ()), *params.get("window_dilation", ())} - {1}:
        return None
    matrices = []
    sides = zip(shape, params["window_dimensions"], params["window_strides"], params["padding"], strict=True)
    for side, window, stride, (before, after) in sides:
        if window > 1 or stride > 1:
            starts, places = np.arange(-before, side + after - window + 1, stride)[:, None], np.arange(side)
            matrices.append((places >= starts) & (places < starts + window))
    return matrices


def window_sum(op: Operation) -> Gain:
    """``reduce_window_sum``, which is separable."""
    matrices = windows(op.shape, op.params)
    if matrices is None:
        return unbounded("dilated windows")
    return Gain(math.prod(np.linalg.norm(m.astype(float), 2) for m in matrices) * SLACK, "SVD per axis")


LINEAR: dict[str, Callable[[Operation], Gain]] = {
    "dot_general": dot,
    "conv_general_dilated": convolution,
    "fft": spectrum.fft,
    **dict.fromkeys((shifted.forward_p.name, shifted.by_x_p.name), depthwise),
    **dict.fromkeys((product.forward_p.name, product.by_x_p.name), channels),
    "reduce_sum": total,
    "cumsum": running_sum,
    "reduce_window_sum": window_sum,
}
"""Primitive -> its rule, for one input that depends on the image."""
