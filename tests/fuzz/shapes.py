"""Operations that move values, for random programs."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.fuzz.draws import Draws, Step, has_axes, inexact, typed


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
        lambda v: jnp.roll(v[i], 1, axis=order[0]),
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
