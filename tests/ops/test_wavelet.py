import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxiqa.ops.wavelet import haar_low, haar_low_pass


@pytest.mark.parametrize("case", ["even16x16", "odd15x17", "odd_rows15x16", "odd_cols16x17"])
def test_the_haar_low_band_equals_the_reference(shared, case):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "10_projections.npz")
    x, band, rebuilt, other = (
        np.moveaxis(arrays[f"haar_{case}__{part}"], 1, -1) for part in ("x", "LL", "low_rec", "x2")
    )
    np.testing.assert_allclose(haar_low(jnp.asarray(x)), band, atol=1e-6)
    np.testing.assert_allclose(haar_low_pass(jnp.asarray(x)), rebuilt, atol=1e-6)
    expected = json.loads((folder / "10_projections.json").read_text())["expected"][f"haar_{case}"]
    price = optax.losses.huber_loss(haar_low_pass(jnp.asarray(other)), haar_low_pass(jnp.asarray(x))).sum()
    assert float(price) == pytest.approx(expected["smooth_l1_sum_lowband(x2,x)"], rel=1e-5)


def test_the_low_band_of_one_image_equals_that_in_a_batch():
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 1, 3, 3)), jnp.float32)
    np.testing.assert_array_equal(haar_low_pass(images)[1], haar_low_pass(images[1]))
