"""What an adaptive attack needs where a defense is random or has no gradient.

`adaptive` puts the two wrappers together as a purifier's own attributes ask for. Every result is a pytree that can be
called, so that attacks share compiled programs between purifiers that differ in their options alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Key

from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.types import Images, PRNGKey, ScoreFn, Scores

Purify = Callable[[Images, PRNGKey], Images]


def adaptive(score_fn: ScoreFn, purifier: Purify, keys: Key[Array, " n"]) -> "EOT":
    """The metric behind a purifier, as an attacker sees it who knows the purifier.

    Scores are exactly those of ``score_fn(purifier(images, key))``, averaged over ``keys``; gradients are its own, or
    through its ``surrogate`` where it has one.

    Args:
        score_fn: the metric.
        purifier: the defense. Its attributes say what is needed: ``surrogate``, a purifier to differentiate instead,
            or None (or none at all) where it is differentiable itself; ``random``, False where it makes no use of its
            key: then one key stands for all.
        keys: random keys, none of which should be used again to score what the attack finds.

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
    """Whether a purifier makes use of its key; one that does not say is taken to."""
    return getattr(_own(purify), "random", True)


def purify_each(purify: Purify, images: Images, keys: PRNGKey | Key[Array, " b"]) -> Array:
    """Every image purified alone, so that the result does not depend on the others of its batch; any size.

    Args:
        purify: the defense.
        images: ``b h w c``.
        keys: one key per image, or one for all, with which equal images become equal images.

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
    """What `eot` returns: ``x ↦ 1/n Σᵢ f(purify(x, keyᵢ))``."""

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
    """Expectation over transformation: the metric behind a random defense, averaged over fixed keys.

        x ↦ 1/n Σᵢ f(purify(x, keyᵢ))

    All n copies of the batch are scored at once: memory grows with n, and the result is differentiable wherever
    ``purify`` is. Every image gets the same draw of each key, so that its score does not depend on its place in the
    batch. Attacks that see more keys are harder to fool by luck; score the result under other keys.

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
    return EOT(as_pytree(score_fn), as_pytree(purify), keys)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BPDA:
    """What `bpda` returns: a purifier."""

    purify: Purify
    surrogate: Purify | None

    @property
    def random(self) -> bool:
        """Whether either of the two is."""
        return is_random(self.purify) or (self.surrogate is not None and is_random(self.surrogate))

    def __call__(self, images: Images, key: PRNGKey) -> Images:
        exact = jax.lax.stop_gradient(self.purify(jax.lax.stop_gradient(images), key))
        approximate = images if self.surrogate is None else self.surrogate(images, key)
        if approximate.shape != exact.shape:
            raise ValueError(f"purify gives {exact.shape}, surrogate {approximate.shape}; expected the same shape")
        # The difference is exactly zero: only its gradient is felt.
        return exact + (approximate - jax.lax.stop_gradient(approximate))


def bpda(purify: Purify, surrogate: Purify | None = None) -> BPDA:
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
    return BPDA(as_pytree(purify), None if surrogate is None else as_pytree(surrogate))


def _own(purify: Purify) -> Purify:
    """The purifier itself, where `as_pytree` has wrapped it."""
    return purify.func if isinstance(purify, jax.tree_util.Partial) else purify
