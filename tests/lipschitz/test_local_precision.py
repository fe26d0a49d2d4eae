import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.lipschitz import certified_interval, clever, gradient_norms, jacobian_norms, largest_slope

WEIGHTS = jax.random.normal(jax.random.key(0), (5, 4, 3))


@pytest.mark.filterwarnings("ignore:clever")
@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
def test_images_of_half_precision_are_widened_first(dtype):
    """Otherwise rounding of two scores, divided by a small change, exceeds the true constant, 1."""
    unit = WEIGHTS / jnp.linalg.norm(WEIGHTS)
    score = lambda x: (x * unit.astype(x.dtype)).sum((1, 2, 3))  # noqa: E731
    narrow = jax.random.uniform(jax.random.key(5), (64, *WEIGHTS.shape)).astype(dtype)
    near = narrow.at[:, 0, 0, 0].multiply(1 - 2 * jnp.finfo(dtype).eps)
    wide, near_wide = narrow.astype(jnp.float32), near.astype(jnp.float32)
    key, options = jax.random.key(0), {"radius": 0.1, "batches": 5, "samples": 2}
    pairs = {
        "largest_slope": (largest_slope(score, narrow, near), largest_slope(score, wide, near_wide)),
        "mixed types": (largest_slope(score, wide, near), largest_slope(score, wide, near_wide)),
        "gradient_norms": (gradient_norms(score, narrow), gradient_norms(score, wide)),
        "certified_interval": (certified_interval(score, narrow, 0.1, 1.0), certified_interval(score, wide, 0.1, 1.0)),
        "jacobian_norms": tuple(jacobian_norms(lambda x: score(x)[:, None], x, key) for x in (narrow, wide)),
    }
    for found, exact in pairs.values():
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert ours.dtype == jnp.float32
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(*(clever(score, x[:2], key, **options).sampled for x in (narrow, wide)))
    assert float(pairs["largest_slope"][0].max()) <= 1 + 1e-3
