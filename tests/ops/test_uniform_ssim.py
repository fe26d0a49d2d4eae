import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.ssim import uniform_ssim


def test_equals_scikit_image(shared):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "03_image_quality.npz")
    expected = json.loads((folder / "03_image_quality.json").read_text())["expected"]
    for pair in ("pair0", "pair1"):
        numbers = expected[pair]
        images = [arrays[f"{pair}_{side}"][None] / 255 for side in ("ref", "dist")]
        with jax.enable_x64(True):
            exact = jax.jit(uniform_ssim)(*(jnp.asarray(image, jnp.float64) for image in images))
            assert exact.dtype == jnp.float64
        assert float(exact[0]) == pytest.approx(numbers["ssim_skimage_default"], abs=1e-10)
        rounded = jax.jit(uniform_ssim)(*(jnp.asarray(image, jnp.float32) for image in images))
        assert float(rounded[0]) == pytest.approx(numbers["ssim_skimage_default"], abs=1e-5)


def test_bad_input_is_refused():
    image = jnp.zeros((1, 8, 6, 3))
    with pytest.raises(ValueError, match="at least 7 pixels"):
        uniform_ssim(image, image)
