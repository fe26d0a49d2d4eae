import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.ssim import psnr, ssim


@pytest.mark.parametrize("pair", ["pair0", "pair1", "pair2"])
def test_ssim_and_psnr_equal_the_reference(shared, pair):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "03_image_quality.npz")
    expected = json.loads((folder / "03_image_quality.json").read_text())["expected"][pair]
    reference, distorted = (jnp.asarray(arrays[f"{pair}_{part}"][None] / np.float32(255)) for part in ("ref", "dist"))
    assert float(ssim(reference, distorted)[0]) == pytest.approx(expected["ssim_gauss_win64"], abs=2e-5)
    assert float(psnr(reference, distorted)[0]) == pytest.approx(expected["psnr"], abs=1e-4)


def test_in_float64_ssim_and_psnr_equal_the_reference_to_its_last_digits(shared):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "03_image_quality.npz")
    expected = json.loads((folder / "03_image_quality.json").read_text())["expected"]["pair1"]
    with jax.enable_x64(True):
        reference, distorted = (jnp.asarray(arrays[f"pair1_{part}"][None] / 255.0) for part in ("ref", "dist"))
        assert float(ssim(reference, distorted)[0]) == pytest.approx(expected["ssim_gauss_win64"], rel=0, abs=1e-9)
        assert float(psnr(reference, distorted)[0]) == pytest.approx(expected["psnr"], rel=0, abs=1e-9)


@pytest.mark.slow
def test_equal_images_score_1_with_a_zero_gradient():
    image = jax.random.uniform(jax.random.key(1), (1, 12, 15, 3))
    assert float(ssim(image, image)[0]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: ssim(image, x).sum())(image), 0, atol=1e-5)
    assert np.isposinf(psnr(image, image)).all()


def test_one_value_per_image_and_the_same_when_compiled():
    a, b = jax.random.uniform(jax.random.key(2), (2, 3, 13, 11, 3))
    each = [float(ssim(a[i : i + 1], b[i : i + 1])[0]) for i in range(3)]
    np.testing.assert_allclose(jax.jit(ssim)(a, b), each, atol=1e-6)


@pytest.mark.slow
def test_ssim_is_differentiable_and_refuses_bad_images():
    a, b = jax.random.uniform(jax.random.key(0), (2, 1, 11, 14, 3))
    assert np.abs(jax.grad(lambda x: ssim(a, x).sum())(b)).max() > 0
    with pytest.raises(ValueError, match="10x14; both sides must be at least 11"):
        ssim(a[:, :10], b[:, :10])
    with pytest.raises(Exception, match=r"different shapes|Type-check"):  # with and without type checks
        ssim(a, b[:, :, :12])


def test_another_window_is_refused():
    image = jnp.zeros((1, 12, 12, 3))
    with pytest.raises(ValueError, match="window='box' is not allowed; choose from 'gaussian', 'uniform'"):
        ssim(image, image, window="box")
