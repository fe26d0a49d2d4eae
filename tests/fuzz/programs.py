"""Random programs of operations that have Lipschitz rules, for `test_fuzz_lipschitz`.

A program is a list of steps. Each step draws an operation and its operands from the values so far. Constants come from
the generator: the same for float32 (which the report traces) and float64 (for the true slope).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxiqa.layers import householder, l2_pool, max_min
from jaxiqa.layers.fourier import from_frequencies, to_frequencies
from jaxiqa.layers.robust_block import soft_threshold
from jaxiqa.layers.spectrum import multiply_dense, multiply_reflection
from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.wide import wide_conv

LARGEST = 400  # values in an array
Step = Callable[[list], jax.Array]


class Draws:
    """State of the generator: random numbers, and the shapes and types of the values so far."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.values: list[jax.ShapeDtypeStruct] = []

    def pick(self, fits=lambda v: True) -> int:
        """Draw the index of a value; late values are more likely."""
        places = [i for i, v in enumerate(self.values) if fits(v)]
        if not places:
            raise LookupError
        weights = 1.5 ** np.arange(len(places))
        return int(self.random.choice(places, p=weights / weights.sum()))

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def numbers(self, *shape: int, like=None) -> np.ndarray:
        """Normal numbers; some constant, some sparse; complex where ``like`` is."""
        kind = self.random.random()
        x = self.random.normal(size=shape)
        x = (
            np.full(shape, self.random.normal())
            if kind < 0.15
            else x * (self.random.random(shape) < 0.5)
            if kind < 0.3
            else x
        )
        if like is not None and is_complex(like):
            x = x + 1j * self.random.normal(size=shape)
        return x

    def one_of(self, *options):
        return options[self.integer(0, len(options) - 1)]


def is_complex(v) -> bool:
    return jnp.issubdtype(v.dtype, jnp.complexfloating)


def real(v) -> bool:
    return jnp.issubdtype(v.dtype, jnp.floating)


def inexact(v) -> bool:
    return jnp.issubdtype(v.dtype, jnp.inexact)


def has_axes(v) -> bool:
    return inexact(v) and v.ndim > 0


def maps(v) -> bool:
    return real(v) and v.ndim == 4 and min(v.shape) > 0


def typed(constant: np.ndarray, x) -> jax.Array:
    """A constant in the type of ``x``."""
    return jnp.asarray(constant, jnp.result_type(x))


def unary(function, fits=inexact):
    def draw(d: Draws) -> Step:
        i = d.pick(fits)
        return lambda v: function(v[i])

    return draw


def with_constant(function, fits=inexact, nonzero=False):
    """Combine with a constant on either side: an array, one number, or a row along the last axis."""

    def draw(d: Draws) -> Step:
        i = d.pick(fits)
        shape = d.values[i].shape
        form = d.one_of(shape, (), shape[-1:], (1,) * max(len(shape) - 1, 0) + shape[-1:])
        if shape == () and d.integer(0, 1):
            form = (d.integer(1, 5), 3)  # one number is broadcast to an array
        if 1 in shape and d.integer(0, 1):  # so does each entry along an axis of length 1
            form = tuple(d.integer(1, 4) if side == 1 else side for side in shape)
        constant = d.numbers(*form, like=d.values[i] if d.integer(0, 1) else None)
        constant = constant + 0.3 * (1 if nonzero else 0) * np.where(constant.real >= 0, 1, -1)
        left = not nonzero and d.integer(0, 1)
        cast = (lambda x: typed(constant, x)) if is_complex(d.values[i]) == np.iscomplexobj(constant) else None
        if cast is None and np.iscomplexobj(constant):
            raise LookupError
        known = cast or (lambda x: jnp.asarray(constant, x.real.dtype))
        return lambda v: function(known(v[i]), v[i]) if left else function(v[i], known(v[i]))

    return draw


def meets(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return whether arrays of these shapes can be added; ranks differ only if one is a single number."""
    return () in (a, b) or (len(a) == len(b) and all(1 in (m, n) or m == n for m, n in zip(a, b, strict=True)))


def of_two(function, fits=inexact):
    """Combine two values of equal shapes, of shapes that differ in axes of length 1, or with a single number."""

    def draw(d: Draws) -> Step:
        i = d.pick(fits)
        first = d.values[i]
        j = d.pick(lambda v: fits(v) and v.dtype == first.dtype and meets(v.shape, first.shape))
        return (lambda v: function(v[i], v[j])) if d.integer(0, 1) else (lambda v: function(v[j], v[i]))

    return draw


def axis_of(function, fits=has_axes):
    def draw(d: Draws) -> Step:
        i = d.pick(fits)
        axis = d.integer(0, d.values[i].ndim - 1)
        return lambda v: function(v[i], axis)

    return draw


def reduced(function, fits=has_axes):
    """Reduce over some axes or all; without axes left the result is one number, which is then broadcast."""

    def draw(d: Draws) -> Step:
        i = d.pick(fits)
        n = d.values[i].ndim
        axes = tuple(range(n)) if d.integer(0, 2) else tuple(a for a in range(n) if d.integer(0, 1))
        keep = bool(d.integer(0, 1))
        return lambda v: function(v[i], axis=axes, keepdims=keep)

    return draw


def reshaped(d: Draws) -> Step:
    i = d.pick(has_axes)
    shape = d.values[i].shape
    order = tuple(int(a) for a in d.random.permutation(len(shape)))
    return d.one_of(
        lambda v: v[i].reshape(-1),
        lambda v: v[i].reshape(1, *shape),
        lambda v: v[i].transpose(order),
        lambda v: jnp.flip(v[i], axis=order[0]),
        lambda v: v[i].swapaxes(0, -1),
        lambda v: jnp.squeeze(v[i]),
    )


def sliced(d: Draws) -> Step:
    i = d.pick(has_axes)
    shape = d.values[i].shape
    axis = d.integer(0, len(shape) - 1)
    start, step = d.integer(0, shape[axis] - 1), d.integer(1, 2)
    return d.one_of(
        lambda v: v[i][(slice(None),) * axis + (slice(start, None, step),)],
        lambda v: jax.lax.dynamic_slice_in_dim(v[i], start, 1, axis),
        lambda v: v[i][(slice(None),) * axis + (start,)],
    )


def padded(d: Draws) -> Step:
    i = d.pick(has_axes)
    config = [(d.integer(-1, 2) if n > 2 else 0, d.integer(0, 2), d.integer(0, 1)) for n in d.values[i].shape]
    value = float(d.random.normal())
    return lambda v: jax.lax.pad(v[i], typed(value, v[i]), config)


def copied(d: Draws) -> Step:
    i = d.pick(inexact)
    shape = d.values[i].shape
    reps = tuple(d.integer(1, 3) for _ in range(max(len(shape), 1)))
    return d.one_of(
        lambda v: jnp.tile(v[i], reps),
        lambda v: jnp.broadcast_to(v[i], (reps[0], *shape)),
        lambda v: jnp.broadcast_to(v[i][..., None], (*shape, reps[-1])),
        lambda v: jax.lax.tile(v[i], reps[: len(shape)]) if shape else jnp.tile(v[i], reps),
    )


def gathered(d: Draws) -> Step:
    i = d.pick(has_axes)
    axis = d.integer(0, d.values[i].ndim - 1)
    n = d.values[i].shape[axis]
    places = d.random.integers(0, n, d.integer(1, 5)).astype(np.int32)
    return lambda v: jnp.take(v[i], places, axis=axis)


def written(d: Draws) -> Step:
    """Set entries of a value to, or add to them, those of another value or a constant."""
    i = d.pick(has_axes)
    n = d.values[i].shape[0]
    places = d.random.integers(0, n, d.integer(1, 4)).astype(np.int32)
    wanted = (len(places), *d.values[i].shape[1:])
    constant = d.numbers(*wanted)
    others = [j for j, v in enumerate(d.values) if v.dtype == d.values[i].dtype and v.size >= np.prod(wanted)]
    j = others[d.integer(0, len(others) - 1)] if others else i
    source = d.integer(0, 2)
    size = int(np.prod(wanted))
    update = lambda v: typed(constant, v[i]) if source == 0 else v[j].ravel()[:size].reshape(wanted)  # noqa: E731
    base = lambda v: jnp.zeros_like(v[i]) if source == 2 else v[i]  # noqa: E731
    if source and not others:
        raise LookupError
    start = d.integer(0, max(n - len(places), 0))
    return d.one_of(
        lambda v: base(v).at[places].set(update(v)),
        lambda v: base(v).at[places].add(update(v)),
        lambda v: jax.lax.dynamic_update_slice_in_dim(base(v), update(v)[: n - start], start, 0),
    )


def chosen(d: Draws) -> Step:
    i = d.pick(inexact)
    first = d.values[i]
    j = d.pick(lambda v: v.shape == first.shape and v.dtype == first.dtype)
    mask = d.random.random(first.shape) < 0.5
    return d.one_of(
        lambda v: jnp.where(mask, v[i], v[j]),
        lambda v: jnp.where(mask, v[i], 0),
        lambda v: jax.lax.select_n(np.bool_(True), v[i], v[j]),
    )


def joined(d: Draws) -> Step:
    i = d.pick(has_axes)
    first = d.values[i]
    j = d.pick(lambda v: v.shape == first.shape and v.dtype == first.dtype)
    axis = d.integer(0, first.ndim - 1)
    constant = d.numbers(*first.shape)
    return d.one_of(
        lambda v: jnp.concatenate([v[i], v[j]], axis),
        lambda v: jnp.stack([v[i], v[j]], axis),
        lambda v: jnp.concatenate([v[i], typed(constant, v[i])], axis),
        lambda v: jnp.concatenate(jnp.split(v[i], [1], axis)[::-1], axis) if first.shape[axis] > 1 else v[i],
    )


def clamped(d: Draws) -> Step:
    """Clamp between constants, between arrays that depend on the input, or between single such numbers."""
    i = d.pick(real)
    v0 = d.values[i]
    low, high = sorted(d.random.normal(size=2).tolist())
    j = d.pick(lambda v: v.shape == v0.shape and v.dtype == v0.dtype)
    scalars = [k for k, v in enumerate(d.values) if v.shape == () and v.dtype == v0.dtype]
    if scalars and d.integer(0, 1):
        k = scalars[d.integer(0, len(scalars) - 1)]
        # not lax.clamp: JAX cannot differentiate it by a bound that is one number
        return lambda v: jnp.clip(v[i], v[k], v[k] + 1)
    return d.one_of(
        lambda v: jnp.clip(v[i], low, high),
        lambda v: lax.clamp(jnp.asarray(low, v[i].dtype), v[i], jnp.asarray(high, v[i].dtype)),
        lambda v: lax.clamp(v[j], v[i], v[j] + 1),
    )


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
    return d.one_of(
        lambda v: jax.lax.conv_general_dilated(v[i], typed(kernel, v[i]), stride, padding, **options),
        lambda v: depthwise_conv(v[i], typed(channels, v[i]), stride=stride, padding=padding),
        lambda v: grouped_conv(v[i], typed(kernel, v[i]), stride=stride, padding=padding),
        lambda v: wide_conv(v[i], typed(whole, v[i]), padding=padding),
        lambda v: jax.vmap(lambda x: depthwise_conv(x, typed(channels, x), stride=stride, padding=padding))(v[i][None])[
            0
        ],
    )


def pooled(d: Draws) -> Step:
    i = d.pick(maps)
    _, h, w, _ = d.values[i].shape
    if min(h, w) < 3:
        raise LookupError
    window, stride = (1, d.integer(1, 3), d.integer(1, 2), 1), (1, d.integer(1, 2), 1, 1)
    padding = ((0, 0), (d.integer(0, window[1] - 1), 0), (0, window[2] - 1), (0, 0))
    side = d.integer(1, 3)
    return (
        d.one_of(
            lambda v: jax.lax.reduce_window(v[i], -jnp.inf, jax.lax.max, window, stride, padding),
            lambda v: jax.lax.reduce_window(v[i], jnp.inf, jax.lax.min, window, stride, padding),
            lambda v: jax.lax.reduce_window(v[i], 0.0, jax.lax.add, window, stride, padding),
            lambda v: l2_pool(v[i], side, d_stride),
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


def activated(d: Draws) -> Step:
    """Apply real functions that have a rule by name, and their derivatives, which have the same names."""
    i = d.pick(real)
    slope = float(d.random.normal()) * 2
    n = d.values[i].shape[-1] if d.values[i].ndim else 1
    angles, even = d.numbers(n // 2), n % 2 == 0
    return d.one_of(
        lambda v: jax.nn.silu(v[i]),
        lambda v: jax.nn.softplus(v[i]),
        lambda v: jax.nn.leaky_relu(v[i]),
        lambda v: jax.nn.leaky_relu(v[i], slope),
        lambda v: jax.nn.relu6(v[i]),
        lambda v: jax.nn.elu(v[i], slope),
        lambda v: jax.nn.selu(v[i]),
        lambda v: jax.nn.celu(v[i], abs(slope) + 0.1),
        lambda v: jax.nn.mish(v[i]),
        lambda v: jax.nn.squareplus(v[i], abs(slope) + 0.1),
        lambda v: jax.nn.hard_silu(v[i]),
        lambda v: jax.nn.hard_tanh(v[i]),
        lambda v: jax.nn.soft_sign(v[i]),
        lambda v: jax.nn.sparse_plus(v[i]),
        lambda v: jnp.linalg.norm(v[i], axis=-1, keepdims=slope > 0) if v[i].ndim else v[i],
        lambda v: jnp.stack(jnp.unstack(v[i])[::-1]) if v[i].ndim else v[i],
        lambda v: max_min(v[i]) if even else v[i],
        lambda v: householder(v[i], typed(angles, v[i])) if even else v[i],
        lambda v: soft_threshold(v[i], typed(np.abs(angles[:1]) if n > 1 else np.float64(0.2), v[i])),
        lambda v: jax.vjp(jax.nn.softplus, v[i])[1](jnp.ones_like(v[i]))[0],
        lambda v: jax.vjp(jax.nn.leaky_relu, jnp.full_like(v[i], -1.0))[1](v[i])[0],
    )


def stepped(d: Draws) -> Step:
    """Apply discontinuous operations, or operations without a rule: the bound must be infinite where they are used."""
    i = d.pick(inexact)
    j = d.pick(has_axes)
    n = d.values[j].shape[0]
    return d.one_of(
        lambda v: jnp.round(v[i].real),
        lambda v: (v[i].real > 0.5).astype(v[i].real.dtype),
        lambda v: v[i].real.astype(jnp.int32).astype(v[i].real.dtype),
        lambda v: jnp.argmax(v[j].real, axis=0).astype(v[i].real.dtype),
        lambda v: v[j][(v[j].real.sum() * 7).astype(jnp.int32) % n],
        lambda v: jnp.where(v[i].real > 0.4, v[i], 2 * v[i] + 1),
        lambda v: jax.lax.cond(v[i].real.sum() > 1, lambda y: y, lambda y: 3 * y + 1, v[i]),
        lambda v: jax.lax.fori_loop(0, 2, lambda _, y: 2 * y, v[i]),
        lambda v: v[i] * v[i],
        lambda v: jnp.sort(v[j] * 1j, axis=0) if n > 1 else v[j],
        lambda v: jax.lax.reduce_precision(v[i].real, 8, 4),
    )


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
