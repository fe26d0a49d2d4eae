import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.ssim import ms_ssim


def pair(shared, name, dtype):
    arrays = np.load(shared / "oracles" / "public" / "03_image_quality.npz")
    expected = json.loads((shared / "oracles" / "public" / "03_image_quality.json").read_text())["expected"][name]
    return *(arrays[f"{name}_{part}"][None].astype(dtype) / dtype(255) for part in ("ref", "dist")), expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pair0", "pair1"])  # even and odd sides
def test_it_equals_the_reference(shared, name):
    with jax.enable_x64(True):
        reference, distorted, expected = pair(shared, name, np.float64)
        value = float(jax.jit(ms_ssim)(jnp.asarray(reference), jnp.asarray(distorted))[0])
    assert value == pytest.approx(expected["ms_ssim_win64"], rel=0, abs=1e-9)


@pytest.mark.slow
def test_equal_images_score_1_and_negatives_have_a_finite_gradient():
    image = jax.random.uniform(jax.random.key(0), (1, 161, 163, 1))
    images = jnp.concatenate([image, 1 - image])  # the negative correlates negatively with the image

    @jax.jit
    @jax.grad
    def gradient(x):
        return ms_ssim(jnp.concatenate([image, image]), x).sum()

    np.testing.assert_allclose(jax.jit(ms_ssim)(jnp.concatenate([image, image]), images), [1, 0], atol=1e-6)
    assert np.isfinite(gradient(images)).all()


def test_short_sides_and_other_shapes_are_refused():
    small = jnp.zeros((1, 160, 200, 3))
    with pytest.raises(ValueError, match="160x200; both sides must be at least 161"):
        ms_ssim(small, small)
    with pytest.raises(Exception, match=r"different shapes|Type-check"):  # with and without type checks
        ms_ssim(small, small[:, :, :-1])
