"""What an adaptive attack needs where a defense is random or has no gradient."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Key

from jaxiqa.types import Images, PRNGKey, ScoreFn, Scores

Purify = Callable[[Images, PRNGKey], Images]


def eot(score_fn: ScoreFn, purify: Purify, keys: Key[Array, " n"]) -> ScoreFn:
    """Expectation over transformation: the metric behind a random defense, averaged over fixed keys.

        x ↦ 1/n Σᵢ f(purify(x, keyᵢ))

    All n copies of the batch are scored at once: memory grows with n, and the result is differentiable wherever
    ``purify`` is. Attacks that see more keys are harder to fool by luck; score the result under other keys.

    Args:
        score_fn: the metric.
        purify: the defense.
        keys: one random key per copy, such as ``jax.random.split(key, 16)``.

    Raises:
        ValueError: ``keys`` is a single key, or empty.

    >>> import jax.numpy as jnp
    >>> noise = lambda x, key: x + jax.random.normal(key, x.shape)
    >>> defended = eot(lambda x: x.mean((1, 2, 3)), noise, jax.random.split(jax.random.key(0), 64))
    >>> print(abs(defended(jnp.full((1, 8, 8, 3), 0.5)) - 0.5).max() < 0.05)
    True

    Reference: Athalye et al., "Synthesizing robust adversarial examples", arXiv:1707.07397.
    """
    if keys.ndim != 1 or not len(keys):
        raise ValueError(f"keys has shape {keys.shape}; expected at least one key, as of jax.random.split(key, 16)")

    def expected(images: Images) -> Scores:
        copies = jax.vmap(purify, (None, 0))(images, keys)
        scores = score_fn(copies.reshape(-1, *copies.shape[2:]))
        return scores.reshape(len(keys), -1).mean(0)

    return expected


def bpda(purify: Purify, surrogate: Purify | None = None) -> Purify:
    """Backward pass differentiable approximation: ``purify`` forwards, exactly; the gradient of ``surrogate`` back.

    Args:
        purify: a defense without a useful gradient, such as a JPEG codec.
        surrogate: a differentiable stand-in for it; the identity by default.

    Raises:
        ValueError: the two give images of different shapes; then the identity will not do.

    >>> import jax.numpy as jnp
    >>> rounded = lambda x, key: jnp.round(4 * x) / 4
    >>> value = lambda x: bpda(rounded)(x, jax.random.key(0)).sum()
    >>> images = jnp.full((1, 1, 1, 1), 0.3)
    >>> float(value(images)), float(jax.grad(value)(images)[0, 0, 0, 0])
    (0.25, 1.0)

    Reference: Athalye et al., "Obfuscated gradients give a false sense of security", arXiv:1802.00420.
    """

    def straight_through(images: Images, key: PRNGKey) -> Images:
        exact = jax.lax.stop_gradient(purify(jax.lax.stop_gradient(images), key))
        approximate = images if surrogate is None else surrogate(images, key)
        if approximate.shape != exact.shape:
            raise ValueError(f"purify gives {exact.shape}, surrogate {approximate.shape}; expected the same shape")
        # The difference is exactly zero: only its gradient is felt.
        return exact + (approximate - jax.lax.stop_gradient(approximate))

    return straight_through
