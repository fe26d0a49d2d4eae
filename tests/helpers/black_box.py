"""Scores, images and a key for the tests of black-box attacks."""

import jax
import jax.numpy as jnp

KEY = jax.random.key(3)


def make_images(shape=(3, 9, 14, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def weights(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def wavy(images):
    """A smooth metric of any size, in which every value counts differently."""
    return jnp.sin(3 * images + weights(images.shape[1:])).mean((1, 2, 3))


def linear(direction):
    return lambda images: (images * direction).sum((1, 2, 3))
