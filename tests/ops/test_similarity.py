import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.similarity import psnr, ssim


@pytest.mark.parametrize("pair", ["pair0", "pair1", "pair2"])
def test_ssim_and_psnr_equal_the_reference(shared, pair):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "03_image_quality.npz")
    expected = json.loads((folder / "03_image_quality.json").read_text())["expected"][pair]
    reference, picture = (jnp.asarray(arrays[f"{pair}_{part}"][None] / np.float32(255)) for part in ("ref", "dist"))
    assert float(ssim(reference, picture)[0]) == pytest.approx(expected["ssim_gauss_win64"], abs=2e-5)
    assert float(psnr(reference, picture)[0]) == pytest.approx(expected["psnr"], abs=1e-4)


def test_ssim_is_differentiable_and_refuses_what_it_cannot_measure():
    a, b = jax.random.uniform(jax.random.key(0), (2, 1, 11, 14, 3))
    assert np.abs(jax.grad(lambda x: ssim(a, x).sum())(b)).max() > 0
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(a[:, :10], b[:, :10])
    with pytest.raises(Exception, match=r"different shapes|Type-check"):  # with and without type checks
        ssim(a, b[:, :, :12])
