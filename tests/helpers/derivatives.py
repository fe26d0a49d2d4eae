"""Checks for every public function: number types, and derivatives of the first and second order."""

import jax
import jax.numpy as jnp
import numpy as np

HALVES = ("float16", "bfloat16")


def inexact_types(function, *arrays):
    """Return all inexact types in the traced program."""
    found = set()

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            found.update(
                v.aval.dtype.name for v in (*eqn.invars, *eqn.outvars) if jnp.issubdtype(v.aval.dtype, jnp.inexact)
            )
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(function)(*arrays).jaxpr)
    return found


def check_half(function, arrays, dtype):
    """Check that half-precision input gives the float32 result, rounded once to half precision."""
    rounded = [jnp.asarray(a, dtype) for a in arrays]
    found = jax.tree.leaves(function(*rounded))
    exact = jax.tree.leaves(function(*(a.astype(jnp.float32) for a in rounded)))
    for ours, theirs in zip(found, exact, strict=True):
        if jnp.issubdtype(theirs.dtype, jnp.floating):
            assert ours.dtype == dtype
            theirs = theirs.astype(dtype)
        np.testing.assert_array_equal(np.asarray(ours, np.complex64), np.asarray(theirs, np.complex64))


def check_float64(function, arrays):
    """Check that float64 stays float64 throughout, and that the result equals that of float32 within its rounding."""
    narrow = jax.tree.leaves(function(*(jnp.asarray(a, jnp.float32) for a in arrays)))
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in arrays]
        found = jax.tree.leaves(function(*wide))
        assert inexact_types(function, *wide) <= {"float64", "complex128"}
        for ours, theirs in zip(found, narrow, strict=True):
            if jnp.issubdtype(ours.dtype, jnp.inexact):
                assert ours.dtype in (jnp.float64, jnp.complex128)
                ours, theirs = np.asarray(ours), np.asarray(theirs)
                np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * max(1, np.abs(ours).max(initial=0)))


def check_derivatives(function, arrays, *, squared=True):
    """Check in float64: Jv equals the change of the value, ⟨u, Jv⟩ = ⟨Jᵀu, v⟩, and Hessian products, computed in two
    ways, equal the change of the gradient.

    ``squared``: check a sum of squares; otherwise check a sum, and skip the first check, for functions whose gradient
    is not their own.
    """
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = [jnp.asarray(a, jnp.float64) for a in arrays]
        v = [jnp.asarray(random.normal(size=a.shape)) for a in x]

        def flat(*x):
            parts = [y for y in jax.tree.leaves(function(*x)) if jnp.issubdtype(y.dtype, jnp.inexact)]
            return jnp.concatenate(
                [p.ravel() for y in parts for p in ((y.real, y.imag) if jnp.iscomplexobj(y) else (y,))]
            )

        places = tuple(range(len(x)))
        value, along = jax.jit(lambda x, v: jax.jvp(flat, x, v))(tuple(x), tuple(v))
        u = jnp.asarray(random.normal(size=value.shape))
        back = jax.jit(lambda x, u: jax.vjp(flat, *x)[1](u))(tuple(x), u)
        assert np.isfinite(np.asarray(along)).all()
        np.testing.assert_allclose(_inner(back, v), (u * along).sum(), rtol=1e-9, atol=1e-9)

        if squared:
            step, run = 1e-6, jax.jit(flat)
            up, down = (run(*(a + s * step * b for a, b in zip(x, v, strict=True))) for s in (1, -1))
            size = float(jnp.abs(along).max(initial=0)) + 1e-3
            np.testing.assert_allclose(along, (up - down) / (2 * step), rtol=1e-4, atol=1e-5 * size)

        gradient = jax.grad(lambda *x: jnp.sum(u * flat(*x) ** (2 if squared else 1)), places)
        forward = jax.jit(lambda x, v: jax.jvp(gradient, x, v)[1])(tuple(x), tuple(v))
        reverse = jax.jit(jax.grad(lambda *x: _inner(gradient(*x), v), places))(*x)
        step, slope = 1e-6, jax.jit(gradient)
        up, down = (slope(*(a + s * step * b for a, b in zip(x, v, strict=True))) for s in (1, -1))
        for ours, theirs, above, below in zip(forward, reverse, up, down, strict=True):
            numeric = (above - below) / (2 * step)
            size = float(jnp.abs(numeric).max(initial=0)) + 1e-3
            np.testing.assert_allclose(ours, numeric, rtol=1e-4, atol=1e-5 * size)
            np.testing.assert_allclose(theirs, ours, rtol=1e-7, atol=1e-9 * size)


def _inner(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(a, b, strict=True))
