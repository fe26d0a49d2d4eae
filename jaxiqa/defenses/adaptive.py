"""Wrappers for adaptive attacks on defenses that are random or have no gradient.

`adaptive` combines the two wrappers as the attributes of a purifier require. Every result is a callable pytree, so that
attacks share compiled programs between purifiers that differ only in their options.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Key

from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.types import Images, PRNGKey, ScoreFn, Scores

Purify = Callable[[Images, PRNGKey], Images]


def adaptive(score_fn: ScoreFn, purifier: Purify, keys: Key[Array, " n"]) -> "EOT":
    """Return the metric behind a purifier, for an attack that knows the purifier.

    Scores are exactly those of ``score_fn(purifier(images, key))``, averaged over ``keys``. Gradients are those of the
    purifier, or of its ``surrogate`` if it has one.

    Args:
        score_fn: the metric.
        purifier: the defense. Two attributes are read. ``surrogate``: a purifier to differentiate instead; None, or no
            such attribute, if the purifier is differentiable. ``random``: False if it does not use its key; then only
            the first key is used.
        keys: random keys; do not use them again to score the attacked images.

    >>> import jax.numpy as jnp
    >>> noise = lambda x, key: x + jax.random.normal(key, x.shape[1:])
    >>> defended = adaptive(lambda x: x.mean((1, 2, 3)), noise, jax.random.split(jax.random.key(0), 64))
    >>> print(abs(defended(jnp.full((1, 8, 8, 3), 0.5)) - 0.5).max() < 0.05)
    True
    """
    surrogate = getattr(_own(purifier), "surrogate", None)
    purify = purifier if surrogate is None else bpda(purifier, surrogate)
    return eot(score_fn, purify, keys if is_random(purifier) else keys[:1])


def is_random(purify: Purify) -> bool:
    """Return whether a purifier uses its key; True if it has no attribute ``random``."""
    return getattr(_own(purify), "random", True)


def purify_each(purify: Purify, images: Images, keys: PRNGKey | Key[Array, " b"]) -> Array:
    """Purify every image separately, so that its result does not depend on the rest of the batch.

    Args:
        purify: the defense; its output may have another size than its input.
        images: ``b h w c``.
        keys: one key per image, or one key for all; with one key, equal images give equal results.

    >>> import jax.numpy as jnp
    >>> noise = lambda x, key: x + jax.random.normal(key, x.shape)
    >>> same = purify_each(noise, jnp.zeros((2, 4, 4, 3)), jax.random.key(0))
    >>> bool((same[0] == same[1]).all())
    True
    """
    if not is_random(purify):
        return purify(images, keys if keys.ndim == 0 else keys[0])
    one = lambda image, key: purify(image[None], key)[0]  # noqa: E731
    return jax.vmap(one, (0, None if keys.ndim == 0 else 0))(images, keys)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EOT:
    """The score function of `eot`: ``x ↦ 1/n Σᵢ f(purify(x, keyᵢ))``."""

    score_fn: ScoreFn
    purify: Purify
    keys: Key[Array, " n"]

    def __call__(self, images: Images) -> Scores:
        copies = jax.vmap(lambda key: purify_each(self.purify, images, key))(self.keys)
        scores = self.score_fn(copies.reshape(-1, *copies.shape[2:]))
        if scores.shape != (len(self.keys) * len(images),):
            expected = f"({len(self.keys) * len(images)},), one score per image"
            raise ValueError(
                f"score_fn returned shape {scores.shape} for {copies.shape[:2]} images; expected {expected}"
            )
        return scores.reshape(len(self.keys), -1).mean(0)


def eot(score_fn: ScoreFn, purify: Purify, keys: Key[Array, " n"]) -> EOT:
    """Expectation over transformation: average the metric behind a random defense over fixed keys.

        x ↦ 1/n Σᵢ f(purify(x, keyᵢ))

    All n copies of the batch are scored at once, so memory grows with n. The result is differentiable if ``purify`` is.
    All images get the same draw of each key, so a score does not depend on the place in the batch. With more keys, an
    attack depends less on chance; score the attacked images with other keys.

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

    Reference: Athalye et al., "Synthesizing Robust Adversarial Examples", arXiv:1707.07397.
    """
    if keys.ndim != 1 or not len(keys):
        raise ValueError(f"keys has shape {keys.shape}; expected (n,), n >= 1, such as jax.random.split(key, 16)")
    return EOT(as_pytree(score_fn), as_pytree(purify), keys)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BPDA:
    """The purifier of `bpda`."""

    purify: Purify
    surrogate: Purify | None

    @property
    def random(self) -> bool:
        """Return whether one of the two uses its key."""
        return is_random(self.purify) or (self.surrogate is not None and is_random(self.surrogate))

    def __call__(self, images: Images, key: PRNGKey) -> Images:
        exact = jax.lax.stop_gradient(self.purify(jax.lax.stop_gradient(images), key))
        approximate = images if self.surrogate is None else self.surrogate(images, key)
        if approximate.shape != exact.shape:
            raise ValueError(
                f"purify returned shape {exact.shape}, surrogate {approximate.shape}; expected the same shape"
            )
        # The difference is exactly zero; it adds only its gradient.
        return exact + (approximate - jax.lax.stop_gradient(approximate))


def bpda(purify: Purify, surrogate: Purify | None = None) -> BPDA:
    """Backward pass differentiable approximation: ``purify`` in the forward pass, the gradient of ``surrogate`` back.

    Args:
        purify: a defense without a useful gradient, such as a JPEG codec.
        surrogate: a differentiable approximation of it; the identity by default.

    Raises:
        ValueError: the two return images of different shapes; then give another surrogate than the identity.

    >>> import jax.numpy as jnp
    >>> rounded = lambda x, key: jnp.round(4 * x) / 4
    >>> value = lambda x: bpda(rounded)(x, jax.random.key(0)).sum()
    >>> images = jnp.full((1, 1, 1, 1), 0.3)
    >>> float(value(images)), float(jax.grad(value)(images)[0, 0, 0, 0])
    (0.25, 1.0)

    Reference: Athalye et al., "Obfuscated Gradients Give a False Sense of Security: Circumventing Defenses to
    Adversarial Examples", arXiv:1802.00420.
    """
    return BPDA(as_pytree(purify), None if surrogate is None else as_pytree(surrogate))


def _own(purify: Purify) -> Purify:
    """Return the purifier without the wrapper of `as_pytree`."""
    return purify.func if isinstance(purify, jax.tree_util.Partial) else purify
