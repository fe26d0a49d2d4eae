"""Products, convolutions, pooling and transforms, for random programs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.layers import circular_shift, global_l2_pool, l2_pool, wavelet_shrink
from jaxiqa.layers.blur import binomial_blur_3, binomial_blur_5
from jaxiqa.layers.fourier import from_frequencies, to_frequencies
from jaxiqa.layers.shrinkage import soft_threshold
from jaxiqa.layers.spectrum import multiply_dense, multiply_reflection
from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.product import widening_product
from jaxiqa.nn.kernels.wide import wide_conv
from tests.fuzz.draws import Draws, Step, has_axes, maps, typed


def multiplied(d: Draws) -> Step:
    """Multiply by a matrix, on either side, or in batches."""
    i = d.pick(has_axes)
    v0 = d.values[i]
    matrix = d.numbers(v0.shape[-1], d.integer(1, 4), like=v0)
    stack = d.numbers(v0.shape[0], d.integer(1, 3), v0.shape[-1], like=v0)
    return d.one_of(
        lambda v: v[i] @ typed(matrix, v[i]),
        lambda v: typed(matrix, v[i]).T @ v[i].reshape(-1, v0.shape[-1]).T,
        lambda v: jnp.einsum("b...i,boi->b...o", v[i], typed(stack, v[i])) if v0.ndim > 1 else v[i],
    )


def convolved(d: Draws) -> Step:
    i = d.pick(maps)
    _, h, w, c = d.values[i].shape
    kh, kw = d.integer(1, 3), d.integer(1, 3)
    stride, padding = (d.integer(1, 2), d.integer(1, 2)), ((d.integer(0, 1), 1), (d.integer(0, 1), 1))
    if h + padding[0][0] + 1 < kh or w + padding[1][0] + 1 < kw:
        raise LookupError
    groups = c if d.integer(0, 1) else 1
    kernel = d.numbers(kh, kw, c // groups, groups * d.integer(1, 2))
    channels, whole = d.numbers(kh, kw, c), d.numbers(kh, kw, c, d.integer(1, 3))
    dilation = (d.integer(1, 2), d.integer(1, 2)) if h >= 6 and w >= 6 else (1, 1)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "rhs_dilation": dilation, "feature_group_count": groups}

    def there_and_back(v):
        method = partial(depthwise_conv, kernel=typed(channels, v[i]), stride=stride, padding=padding)
        value, back = jax.vjp(method, v[i])
        return back(value)[0]

    def product_and_back(v):
        value, back = jax.vjp(lambda x: widening_product(x, typed(whole[0, 0], x)), v[i])
        return back(value)[0]

    return d.one_of(
        lambda v: jax.lax.conv_general_dilated(v[i], typed(kernel, v[i]), stride, padding, **options),
        lambda v: depthwise_conv(v[i], typed(channels, v[i]), stride=stride, padding=padding),
        lambda v: grouped_conv(v[i], typed(kernel, v[i]), stride=stride, padding=padding),
        lambda v: wide_conv(v[i], typed(whole, v[i]), padding=padding),
        lambda v: jax.vmap(lambda x: depthwise_conv(x, typed(channels, x), stride=stride, padding=padding))(v[i][None])[
            0
        ],
        there_and_back,
        lambda v: widening_product(v[i], typed(whole[0, 0], v[i])),
        product_and_back,
    )


def pooled(d: Draws) -> Step:
    i = d.pick(maps)
    _, h, w, _ = d.values[i].shape
    if min(h, w) < 3:
        raise LookupError
    window, stride = (1, d.integer(1, 3), d.integer(1, 2), 1), (1, d.integer(1, 2), 1, 1)
    padding = ((0, 0), (d.integer(0, window[1] - 1), 0), (0, window[2] - 1), (0, 0))
    side = d.integer(1, 3)

    def soft(x):
        return x if jnp.iscomplexobj(x) else (binomial_blur_3 if side % 2 else binomial_blur_5)(x)

    return (
        d.one_of(
            lambda v: jax.lax.reduce_window(v[i], -jnp.inf, jax.lax.max, window, stride, padding),
            lambda v: jax.lax.reduce_window(v[i], jnp.inf, jax.lax.min, window, stride, padding),
            lambda v: jax.lax.reduce_window(v[i], 0.0, jax.lax.add, window, stride, padding),
            lambda v: l2_pool(soft(v[i]), side, d_stride),
            lambda v: global_l2_pool(soft(v[i])),
            lambda v: circular_shift(v[i], distance=side, share=0.9),
            lambda v: wavelet_shrink(v[i].real, side / 10, levels=side),
        )
        if (d_stride := d.integer(1, 2))
        else None
    )


def transformed(d: Draws) -> Step:
    """Apply a Fourier transform, a change of the spectrum that keeps norms or does not, and the inverse."""
    i = d.pick(maps)
    _, h, w, c = d.values[i].shape
    size = (h, w + d.integer(-1, 2) if w > 2 else w)
    factor = d.numbers(h, w // 2 + 1, c)
    matrices = d.numbers(h * (w // 2 + 1), 1, c, c) + 1j * d.numbers(h * (w // 2 + 1), 1, c, c)
    basis = np.linalg.qr(matrices)[0][..., :1]
    thresholds = np.abs(d.numbers(c))
    low = np.unique(d.random.integers(0, h * (w // 2 + 1), 4)).astype(np.int32)

    def dense(x, low=None):
        z = to_frequencies(x).reshape(1, -1, 1, c).swapaxes(0, 1)
        z = multiply_dense(jnp.asarray(matrices if low is None else matrices[low], z.dtype), z, low)
        return from_frequencies(z.swapaxes(0, 1).reshape(1, h, w // 2 + 1, c), (h, w))

    def reflected(x):
        z = to_frequencies(x).reshape(1, -1, 1, c).swapaxes(0, 1)
        z = multiply_reflection(jnp.asarray(basis, z.dtype), z)
        return from_frequencies(z.swapaxes(0, 1).reshape(1, h, w // 2 + 1, c), (h, w))

    def between(change):
        return lambda v: from_frequencies(change(to_frequencies(v[i])), (h, w))

    if d.values[i].shape[0] != 1:
        raise LookupError
    return d.one_of(
        lambda v: to_frequencies(v[i]),
        lambda v: from_frequencies(to_frequencies(v[i]), (h, w)),
        lambda v: from_frequencies(to_frequencies(v[i]), size),
        lambda v: jnp.fft.irfft2(jnp.fft.rfft2(v[i], axes=(1, 2)), s=size, axes=(1, 2)),
        lambda v: jnp.fft.irfft(v[i] + 0j, axis=2),
        lambda v: jnp.fft.fft(v[i], axis=1),
        lambda v: jnp.fft.ifft2(v[i] + 0j, axes=(1, 2), norm="ortho"),
        lambda v: dense(v[i]),
        lambda v: dense(v[i], low),
        lambda v: reflected(v[i]),
        between(lambda z: z * typed(factor, z)),
        between(lambda z: z + 1j * jnp.conj(z)),
        between(lambda z: jnp.roll(z, 1, axis=2)),
        between(lambda z: z[:, :, ::-1]),
        between(lambda z: jnp.concatenate([z[:, :, :1]] * z.shape[2], 2)),
        between(lambda z: soft_threshold(z, jnp.asarray(thresholds, z.real.dtype))),
        between(lambda z: jax.lax.complex(jnp.abs(z), z.real)),
    )
