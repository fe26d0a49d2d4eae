"""Filters of zeros, convolutions and batch norms with fewer channels, and whole maps from some channels."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.variables import Constant
from jaxiqa.layers.materialize import children
from jaxiqa.nn.kernels.pick import pick, spread


def layers_of(model: nnx.Module) -> list[tuple[Any, list[tuple[Any, int | str]]]]:
    """Return every plain 2-D convolution and batch norm, with all of its places: parent and key."""
    found: dict[int, tuple[Any, list[tuple[Any, int | str]]]] = {}
    for _, parent in nnx.iter_modules(model):
        for key, child in children(parent):
            conv = type(child) is nnx.Conv and len(child.kernel_size) == 2 and child.mask is None
            if conv or type(child) is nnx.BatchNorm:
                found.setdefault(id(child), (child, []))[1].append((parent, key))
    return list(found.values())


def zero_filters(layer: nnx.Conv) -> np.ndarray:
    """Return, for each filter, whether all of its weights are zero.

    >>> layer = nnx.Conv(3, 2, (1, 1), kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
    >>> zero_filters(layer).tolist()
    [True, True]
    """
    return ~np.any(np.asarray(layer.kernel[...]), axis=(0, 1, 2))


def bias_of(layer: nnx.Conv) -> np.ndarray:
    """Return the bias of each filter; zeros if it has none."""
    return np.zeros(layer.out_features, np.float32) if layer.bias is None else np.asarray(layer.bias[...], np.float32)


def is_depthwise(layer: nnx.Conv) -> bool:
    """Return whether each channel has one filter of its own."""
    return layer.feature_group_count == layer.in_features == layer.out_features > 1


def is_unpadded(layer: nnx.Conv) -> bool:
    """Return whether the layer adds no zeros around or in its input, so that a constant channel stays constant."""
    if layer.input_dilation is not None and np.any(np.asarray(layer.input_dilation) != 1):
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "VALID" or tuple(layer.kernel_size) == (1, 1)
    return not np.any(layer.padding)


def normalised(norm: nnx.BatchNorm, values: np.ndarray) -> np.ndarray:
    """Return a batch norm of one value per channel, by its running statistics."""

    def read(variable: Any, default: float) -> np.ndarray:
        return np.asarray(default if variable is None else variable[...], np.float64)

    factor = read(norm.scale, 1.0) / np.sqrt(read(norm.var, 1.0) + norm.epsilon)
    return ((values - read(norm.mean, 0.0)) * factor + read(norm.bias, 0.0)).astype(np.float32)


def select_filters(layer: nnx.Conv, kernel: np.ndarray, bias: np.ndarray, kept: np.ndarray) -> None:
    """Give a convolution another kernel and bias, of which only the filters ``kept`` remain, in place.

    Args:
        layer: the convolution; it has a bias afterwards if it had one or if ``bias`` is not zero.
        kernel: ``kh kw cin cout``.
        bias: one number per filter.
        kept: indices of filters.

    >>> layer = nnx.Conv(2, 3, (1, 1), use_bias=False, rngs=nnx.Rngs(0))
    >>> select_filters(layer, np.ones((1, 1, 2, 3)), np.zeros(3), np.array([0, 2]))
    >>> layer(jnp.ones((1, 1, 1, 2))).ravel().tolist()
    [2.0, 2.0]
    """
    dtype, depthwise = layer.kernel.dtype, is_depthwise(layer)
    layer.kernel = nnx.Param(jnp.asarray(kernel[..., kept], dtype))
    if layer.bias is not None or np.any(bias):
        layer.bias, layer.use_bias = nnx.Param(jnp.asarray(bias[kept], dtype)), True
    layer.kernel_shape, layer.out_features = layer.kernel.shape, len(kept)
    layer.in_features = len(kept) if depthwise else kernel.shape[2]
    layer.feature_group_count = len(kept) if depthwise else 1


def select_channels(norm: nnx.BatchNorm, kept: np.ndarray) -> None:
    """Keep only some channels of a batch norm, in place.

    >>> norm = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
    >>> select_channels(norm, np.array([0, 2]))
    >>> norm(jnp.ones((1, 1, 1, 2))).shape
    (1, 1, 1, 2)
    """
    for name in ("mean", "var", "scale", "bias"):
        if (variable := getattr(norm, name)) is not None:
            setattr(norm, name, type(variable)(variable[...][kept]))
    norm.num_features = len(kept)


class Picked(nnx.Module):
    """Compute ``layer(x)`` from the channels ``kept`` of ``x``."""

    def __init__(self, layer: nnx.Module, kept: np.ndarray):
        self.layer, self.kept = layer, tuple(kept.tolist())

    def __call__(self, x: Float[Array, "b h w c"], **options: Any) -> Float[Array, "b h2 w2 c2"]:
        return self.layer(pick(x, self.kept), **options)


class Widened(nnx.Module):
    """Compute ``layer(x)`` and put constant channels between those of its output.

    Args:
        layer: gives the channels that are computed.
        computed: their places in the whole map.
        constants: one number for each place of the whole map; 0 at those that are computed.

    >>> norm = nnx.BatchNorm(1, use_running_average=True, rngs=nnx.Rngs(0))
    >>> Widened(norm, np.array([1]), np.array([7.0, 0.0, 9.0]))(jnp.zeros((1, 1, 1, 1))).ravel().tolist()
    [7.0, 0.0, 9.0]
    """

    def __init__(self, layer: nnx.Module, computed: np.ndarray, constants: np.ndarray):
        self.layer, self.computed = layer, tuple(computed.tolist())
        self.constants = Constant(jnp.asarray(constants, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"], **options: Any) -> Float[Array, "b h2 w2 c2"]:
        y = self.layer(x, **options)
        return spread(y, self.computed, self.constants.shape[0]) + self.constants[...].astype(y.dtype)
