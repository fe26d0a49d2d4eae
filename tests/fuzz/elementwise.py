"""Operations on single values, of two arrays, and reductions, for random programs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxiqa.layers import beta_abs, householder, max_min, smooth_relu6
from jaxiqa.layers.shrinkage import soft_threshold
from tests.fuzz.draws import Draws, Step, has_axes, inexact, is_complex, real, typed


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
        lambda v: smooth_relu6(jax.nn.relu6(v[i]) - 3) if slope > 1 else smooth_relu6(v[i]),
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
        lambda v: beta_abs(v[i], share=min(abs(slope), 1.0)) if v[i].ndim else v[i],
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
