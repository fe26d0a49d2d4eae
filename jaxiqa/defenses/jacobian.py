"""A penalty on how far a small change of the images moves the features of a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxiqa.core.checks import check_number
from jaxiqa.core.keys import image_keys
from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.types import Images, PRNGKey

Features = Float[Array, "b *h_w c"]


def jacobian_penalty(
    features_fn: Callable[[Images], Features],
    images: Images,
    key: PRNGKey | Key[Array, " b"],
    *,
    step: float | Float[Array, ""] = 0.01,
    weight: float | Float[Array, ""] = 1.0,
    gather: Callable[[Array], Array] = lambda x: x,
) -> Float[Array, ""]:
    """Jacobian regularisation of features, for instance those of an early stage: compute

        λ/2 · Σᵢ ‖F(xᵢ + h vᵢ) − F(xᵢ)‖² / (h² Σᵢ ‖F(xᵢ) − F̄‖²),    vᵢ = sign(Jᵢᵀ uᵢ),    uᵢ ~ N(0, I).

    F̄ is the mean of each channel over images and pixels. So the penalty is the squared change of the features, as a
    share of their variance, per unit of pixel change in a direction that an Linf attack on them would take. F and
    a·F + b have the same penalty: a later layer or batch norm cannot undo it. Gradients flow through F at both places
    and through the variance, not through v.

    Args:
        features_fn: ``b h w c`` images to features, ``b ... channels``, differentiable; images are independent.
        images: ``b h w c`` in [0, 1]; at least two, or maps of several pixels.
        key: random key of the directions, one or one per image.
        step: h, in [0, 1] pixel units, > 0. ``x + h v`` may lie outside [0, 1] by h.
        weight: λ, >= 0.
        gather: collects the values of all devices, in a function that runs on several devices.

    Returns:
        One number, differentiable in the leaves of ``features_fn``.

    Raises:
        ValueError: ``step`` or ``weight`` is out of range.

    >>> images = jax.random.uniform(jax.random.key(0), (8, 4, 4, 3))
    >>> price = lambda scale: jacobian_penalty(lambda x: scale * x, images, jax.random.key(1))
    >>> 5.0 < float(price(1.0)) < 7.0, bool(jnp.isclose(price(1.0), price(0.1)))  # variance 1/12, so 1/2 · 12
    (True, True)

    Reference: Hoffman, Roberts and Yaida, "Robust Learning with Jacobian Regularization", arXiv:1908.02729.

    **Differs from the paper**, which penalises ‖J‖_F² of the logits by random projections: features of any stage,
    relative to their variance; the sign of a projection, which is the direction of an Linf attack; and a finite
    difference, which needs no second derivative.
    """
    check_number("step", step, 0.0, open_low=True)
    check_number("weight", weight, 0.0)
    features_fn = as_pytree(features_fn)
    still, keys = jax.lax.stop_gradient(features_fn), image_keys(key, len(images))

    def projected(x: Images) -> Float[Array, ""]:
        features = still(x)
        draw = partial(jax.random.normal, shape=features.shape[1:], dtype=features.dtype)
        return jnp.vdot(jax.vmap(draw)(keys), features)

    direction = jax.lax.stop_gradient(jnp.sign(jax.grad(projected)(images)))
    before, after = jnp.split(features_fn(jnp.concatenate([images, images + step * direction])), 2)
    everywhere = tuple(range(before.ndim - 1))
    centre = gather(before.mean(everywhere)[None]).mean(0)
    moved = _total(gather, (after - before) / step)
    return weight / 2 * moved / jnp.maximum(_total(gather, before - centre), 1e-12)


def _total(gather: Callable[[Array], Array], x: Any) -> Float[Array, ""]:
    """Return the sum of squares over the features of all devices."""
    return gather(jnp.square(x).reshape(len(x), -1).sum(1)).sum()
