"""Every public name of `jaxiqa.layers`: functions with arrays for them, and modules; odd, non-square sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxiqa import layers
from jaxiqa.layers import (
    blur,
    fourier,
    kernel_bounds,
    linear_algebra,
    manifold,
    orthogonal_dense,
    shrinkage,
    sll,
    unitary_spectrum,
)
from jaxiqa.nn.kernels import grouped, pick, resampling, wide
from jaxiqa.nn.kernels import max_pool as max_pooling
from jaxiqa.nn.kernels.depthwise import depthwise_conv, grouped_convolution, shifted_products
from jaxiqa.nn.kernels.product import widening_product

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 5, 7, 4))
KERNEL = RANDOM.normal(size=(3, 3, 4, 4)) / 3
TALL = RANDOM.normal(size=(2, 5, 3))
SQUARE = RANDOM.normal(size=(2, 4, 4)) / 2


def complex_parts(function):
    return lambda *parts: function(*(jax.lax.complex(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)))


def skew(function):
    """Return the skew matrix with the upper triangle of a: exact in any type."""
    return lambda a: function(jnp.triu(a, 1) - jnp.triu(a, 1).swapaxes(-1, -2))


def skew_step(w, a):
    """Return exp(A − Aᵀ)·W."""
    return manifold.rotate((w,), (jnp.broadcast_to(a - a.T, (2, 5, 5)),))[0][0]


def span(v):
    """Return the reflection at the span: the derivative of a basis is correct for functions of its span only."""
    return layers.reflect(jnp.broadcast_to(jnp.eye(5, dtype=v.dtype), (2, 5, 5)), layers.orthonormal_basis(v))


FUNCTIONS = {
    "almost_orthogonal": (layers.almost_orthogonal, [KERNEL[..., :3]]),
    "average_pool": (lambda x: layers.average_pool(x, 3, 2), [X]),
    "beta_abs": (lambda x: layers.beta_abs(x, share=0.6), [X]),
    "cayley": (skew(layers.cayley), [SQUARE]),
    "circular_shift": (lambda x: layers.circular_shift(x, distance=2, share=1.0), [X]),
    "contracting_resize": (lambda x: layers.contracting_resize(x, (4, 9)), [X]),
    "depth_to_space": (lambda x: layers.depth_to_space(x, 2), [X]),
    "expm_eigh": (skew(layers.expm_eigh), [SQUARE]),
    "expm_taylor": (skew(layers.expm_taylor), [SQUARE]),
    "global_l2_pool": (layers.global_l2_pool, [X]),
    "group_sort": (lambda x: layers.group_sort(x, 4), [X]),
    "householder": (layers.householder, [X, np.array([1.3, 0.4])]),
    "l2_pool": (lambda x: layers.l2_pool(x, 3, 2), [X]),
    "low_pass": (lambda x: layers.low_pass(x, 0.6), [X]),
    "max_min": (layers.max_min, [X]),
    "orthogonal_convolve": (layers.orthogonal_convolve, [X, KERNEL]),
    "orthonormal_basis": (span, [TALL]),
    "reflect": (layers.reflect, [RANDOM.normal(size=(2, 3, 5)), TALL]),
    "semi_orthogonal": (layers.semi_orthogonal, [TALL]),
    "shrink": (layers.shrink, [X, np.full(4, 0.3)]),
    "wavelet_shrink": (layers.wavelet_shrink, [X, np.array(0.3)]),
    "smooth_relu6": (layers.smooth_relu6, [4 * X]),
    "spectral_norm": (lambda k: layers.spectral_norm(k, steps=100), [KERNEL]),
    "sorted_energies": (lambda x: layers.sorted_energies(x, 2, 3), [X]),
    "space_to_depth": (lambda x: layers.space_to_depth(x, 2), [RANDOM.normal(size=(1, 4, 6, 3))]),
    "square_pool": (layers.square_pool, [X]),
    "to_unitary": (layers.to_unitary, [SQUARE]),
    "unitary_spectrum": (lambda k: unitary_spectrum(k, (5, 4), groups=2).matrices, [KERNEL[..., :2]]),
}
MORE = {
    "cayley of complex": (complex_parts(lambda a: layers.to_unitary(a, "cayley")), [SQUARE, SQUARE[::-1]]),
    "basis of complex": (complex_parts(span), [TALL, TALL[::-1]]),
    "wide": (layers.semi_orthogonal, [TALL[0].T]),
    "cayley convolution": (partial(layers.orthogonal_convolve, unitary="cayley", band=0.6), [X, KERNEL]),
    "reflection convolution": (partial(layers.orthogonal_convolve, unitary="reflection"), [X, KERNEL[..., :2]]),
}

PADS = ((1, 0), (2, 1))
EVEN = RANDOM.normal(size=(1, 6, 4, 3))
MACHINERY = {
    "adjoint": (linear_algebra.adjoint, [TALL]),
    "antialias": (lambda x: blur.antialias(x, 3), [X]),
    "binomial_blur_3": (blur.binomial_blur_3, [X]),
    "binomial_blur_5": (blur.binomial_blur_5, [X]),
    "corrected": (lambda w: manifold.corrected((w,))[0], [TALL / 3]),
    "convolve": (kernel_bounds.convolve, [X, KERNEL[..., :3]]),
    "dense": (orthogonal_dense.dense, [X, TALL[0, :3].repeat(2, 1)[:, :4]]),
    "depthwise_conv": (
        partial(depthwise_conv, stride=(2, 1), padding=((1, 1), (0, 1))),
        [X, RANDOM.normal(size=(3, 2, 4))],
    ),
    "descend": (sll.descend, [X, KERNEL, RANDOM.normal(size=4), np.full(4, 3.0)]),
    "doubling_conv": (resampling.doubling_conv, [EVEN, RANDOM.normal(size=(4, 4, 3, 2))]),
    "from_frequencies": (lambda x: fourier.from_frequencies(fourier.to_frequencies(x), (5, 7)), [X]),
    "grouped_conv": (partial(grouped.grouped_conv, stride=(2, 1), padding=PADS), [X, KERNEL[:, :2, :2]]),
    "grouped_convolution": (lambda x, k: grouped_convolution(x, k, (2, 1), PADS), [X, KERNEL[:, :2, 0]]),
    "halving_conv": (
        partial(resampling.halving_conv, padding=((1, 1), (1, 1))),
        [EVEN, RANDOM.normal(size=(4, 4, 3, 2))],
    ),
    "max_pool": (lambda x: max_pooling.max_pool(x, 3, 2, PADS), [X]),
    "nearest": (lambda w: manifold.nearest((w,))[0], [TALL / 3]),
    "newton_schulz": (lambda u: linear_algebra.newton_schulz((u,)), [TALL / 3]),
    "norm_bound": (kernel_bounds.norm_bound, [KERNEL[..., :3]]),
    "overlaps": (kernel_bounds.overlaps, [KERNEL[..., :3]]),
    "pick": (partial(pick.pick, kept=(0, 2)), [X]),
    "polish": (linear_algebra.polish, [TALL / 3]),
    "product": (linear_algebra.product, [SQUARE, TALL[:, :4]]),
    "rotate": (skew_step, [TALL / 3, np.tri(5) / 20]),
    "rotation": (lambda w, d: manifold.rotation((w,), (d,))[0], [TALL, TALL[::-1]]),
    "shifted_products": (lambda x, k: shifted_products(x, k, (2, 1), PADS), [X, KERNEL[:, :2, 0]]),
    "to_frequencies": (fourier.to_frequencies, [X]),
    "spread": (partial(pick.spread, kept=(0, 2, 5, 6), count=8), [X]),
    "soft_threshold": (lambda x, t: shrinkage.soft_threshold(x + 0j, t), [X, np.full(4, 0.3)]),
    "transposed": (kernel_bounds.transposed, [KERNEL[..., :3]]),
    "widening_product": (widening_product, [X, KERNEL[0, :2].reshape(4, 8)]),
    "wide_conv": (partial(wide.wide_conv, padding=PADS), [X, KERNEL[:, :2, :, :3]]),
}
"""Internal functions of the layers."""
NO_FRACTIONS = {
    "band_gains",
    "band_matrix",
    "check_odd",
    "conjugates",
    "is_wide",
    "is_widening",
    "low_frequencies",
    "low_pass_mask",
    "phases",
    "positions",
}
NO_FRACTIONS |= {"square_window", "threshold_parameter", "windows"}
"""Functions that take sizes, or read shapes only."""
OF_OTHERS = {
    "around",
    "bilinear",
    "children",
    "full",
    "in_chunks",
    "random_orthogonal",
    "replace",
    "through_frequencies",
}
"""Functions that compute nothing with their arguments, or take a function."""
COMPLEX = {"completed", "multiply", "multiply_dense", "multiply_reflection", "response", "taylor"}
"""Functions of complex matrices, which have no half precision; the public functions above call them."""

MODULES = {
    "AOL": lambda: layers.AOL(4, 3, rngs=nnx.Rngs(0)),
    "CPL": lambda: layers.CPL(4, 4, rngs=nnx.Rngs(0)),
    "SLL": lambda: layers.SLL(4, 4, inner=5, rngs=nnx.Rngs(0)),
    "SOC": lambda: layers.SOC(4, 3, rngs=nnx.Rngs(0)),
    "Bottleneck": lambda: layers.Bottleneck(4, 3, rngs=nnx.Rngs(0)),
    "DirectConv": lambda: layers.DirectConv(layers.OrthogonalConv(4, 6, rngs=nnx.Rngs(0)), (5, 7)),
    "DirectDense": lambda: layers.DirectDense(4, 3, use_bias=True, rngs=nnx.Rngs(0)),
    "Householder": lambda: layers.Householder(4),
    "LowPass": lambda: layers.LowPass(share=0.6),
    "OrthogonalConv": lambda: layers.OrthogonalConv(4, 6, kernel_size=(3, 2), rngs=nnx.Rngs(0)),
    "OrthogonalDense": lambda: layers.OrthogonalDense(4, 3, use_bias=True, rngs=nnx.Rngs(0)),
    "RobustBlock": lambda: layers.RobustBlock(4, 3, shrink=0.1, low_pass=0.8, rngs=nnx.Rngs(0)),
    "Sandwich": lambda: layers.Sandwich(4, 3, rngs=nnx.Rngs(0)),
    "Shrinkage": lambda: layers.Shrinkage(4, threshold=0.3),
    "WaveletShrinkage": lambda: layers.WaveletShrinkage(threshold=0.3),
    "SquarePool": layers.SquarePool,
    "to_direct": lambda: layers.to_direct(layers.OrthogonalConv(4, 4, rngs=nnx.Rngs(0)), (5, 7)),
    "materialize": lambda: layers.materialize(layers.OrthogonalConv(4, 4, rngs=nnx.Rngs(0)), (5, 7)),
    "Spectrum": lambda: layers.unitary_spectrum(jnp.asarray(KERNEL, float), (5, 7)),
}
NO_ARRAYS = {"BASELINES", "average_pool_constant", "coverage", "resize_constant", "square_pool_constant"}
