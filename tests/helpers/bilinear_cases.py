"""Checks for operations that are linear in both operands: `jaxiqa.nn.kernels.bilinear`."""

import jax
import jax.numpy as jnp
import numpy as np


def check_derivatives_equal(ours, theirs, x, kernel, *, tolerance=1e-11):
    """Check in float64 that values and derivatives of both orders and modes equal those of another algorithm."""

    def derivatives(method, x, kernel):
        loss = lambda x, k: jnp.sin(method(x, k)).sum()  # noqa: E731
        value, pullback = jax.vjp(method, x, kernel)
        pushed = jax.jvp(method, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))
        second = [jax.grad(lambda *xk, n=n: (jax.grad(loss, n)(*xk) ** 2).sum(), (0, 1))(x, kernel) for n in (0, 1)]
        along = jax.jvp(jax.grad(loss, (0, 1)), (x, kernel), (jnp.cos(x), jnp.cos(kernel)))
        return jax.tree.leaves([value, pullback(jnp.cos(value)), pushed, second, along])

    with jax.enable_x64(True):
        arrays = jnp.asarray(x), jnp.asarray(kernel)
        for found, expected in zip(derivatives(ours, *arrays), derivatives(theirs, *arrays), strict=True):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def check_mapped(method, x, kernel, axes, *, count=5):
    """Check that `jax.vmap` of the operation and of its derivatives gives what each element alone gives."""
    several = lambda v, axis: np.stack([v, 2 * v[::-1], v**2, -v, v + 1][:count], axis)  # noqa: E731
    given = [
        jnp.asarray(v if axis is None else several(v, axis), jnp.float32)
        for v, axis in zip((x, kernel), axes, strict=True)
    ]

    def all_of(x, kernel):
        value, pullback = jax.vjp(method, x, kernel)
        same = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)  # for all elements
        return value, *pullback(jnp.cos(value)), *pullback(same)

    mapped = jax.vmap(all_of, axes)(*given)
    for n in range(count):
        alone = all_of(*(v if a is None else jnp.take(v, n, a) for v, a in zip(given, axes, strict=True)))
        for found, expected in zip(mapped, alone, strict=True):
            np.testing.assert_allclose(found[n], expected, rtol=1e-5, atol=1e-5)
