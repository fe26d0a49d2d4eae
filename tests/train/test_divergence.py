"""Training that has diverged without a NaN is noticed, and healthy training is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.train.divergence import check_scores, check_weights, differ, rms


def test_the_root_mean_square_neither_overflows_nor_hides_what_is_not_finite():
    assert float(rms({"a": jnp.full(4, 1e31), "b": jnp.zeros(12)})) == pytest.approx(5e30, rel=1e-5)
    assert not np.isfinite(float(rms([jnp.array([1.0, jnp.nan])])))
    assert not np.isfinite(float(rms([jnp.array([1.0, -jnp.inf])])))
    assert float(rms([jnp.zeros(3)])) == 0


@pytest.mark.parametrize(("factor", "healthy"), [(1.0, True), (50.0, True), (2e3, False), (1e31, False)])
def test_weights_that_have_exploded_are_named_with_their_step(factor, healthy):
    params, stats = {"kernel": jax.random.normal(jax.random.key(0), (3, 8))}, {"mean": jnp.ones(8)}
    now = {"kernel": params["kernel"] * factor}
    if healthy:
        check_weights(float(rms(params)), now, stats, 7)
    else:
        with pytest.raises(FloatingPointError, match=r"diverged: at step 7 the weights' root mean square is .*start"):
            check_weights(float(rms(params)), now, stats, 7)


def test_statistics_of_batch_norms_that_are_not_finite_are_noticed():
    params = {"kernel": jnp.ones(3)}
    check_weights(1.0, params, {}, 1)
    with pytest.raises(FloatingPointError, match="step 5 statistics of batch norms"):
        check_weights(1.0, params, {"var": jnp.array([1.0, jnp.inf])}, 5)


def test_scores_that_cannot_be_judged_are_noticed():
    check_scores(np.array([-30.0, 0.1, 200.0]), 3)
    with pytest.raises(FloatingPointError, match="at step 3, 2 of 3 validation scores are not finite"):
        check_scores(np.array([np.nan, np.inf, 1.0]), 3)
    with pytest.raises(FloatingPointError, match=r"at step 3 validation scores spread by 5e\+11"):
        check_scores(np.array([0.0, 1e12], np.float32), 3)
    assert not differ(np.full(5, 3.0))
    assert not differ(np.zeros(5))
    assert differ(np.array([0.0, 1e-3]))
