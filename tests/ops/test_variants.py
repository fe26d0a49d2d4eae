"""The same numbers with and without `jax.jit`, and under `jax.pmap`."""

import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from jaxiqa.layers import average_pool, max_min, orthogonal_convolve
from jaxiqa.ops.color import rgb_to_lab
from jaxiqa.ops.filters import gaussian_blur, median_blur
from jaxiqa.ops.jpeg import jpeg
from jaxiqa.ops.resize import resize_bilinear
from jaxiqa.ops.ssim import psnr, ssim

IMAGES = np.random.default_rng(0).uniform(size=(2, 23, 18, 3)).astype(np.float32)
OTHER = np.clip(IMAGES + 0.1, 0, 1)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)
CASES = {
    "ssim": (ssim, (IMAGES, OTHER)),
    "psnr": (psnr, (IMAGES, OTHER)),
    "resize_bilinear": (lambda x: resize_bilinear(x, (11, 30)), (IMAGES,)),
    "jpeg": (lambda x: jpeg(x, 40), (IMAGES,)),
    "gaussian_blur": (lambda x: gaussian_blur(x, 5, 1.2), (IMAGES,)),
    "median_blur": (lambda x: median_blur(x, 3), (IMAGES,)),
    "rgb_to_lab": (rgb_to_lab, (IMAGES,)),
    "average_pool": (lambda x: average_pool(x, 2), (IMAGES,)),
    "max_min": (lambda x: max_min(jnp.concatenate([x, -x], -1)), (IMAGES,)),
    "orthogonal_convolve": (orthogonal_convolve, (IMAGES, KERNEL)),
}


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.named_parameters(*((name, *case) for name, case in CASES.items()))
    def test_the_numbers_are_the_same(self, function, arguments):
        found = self.variant(function)(*map(jnp.asarray, arguments))
        exact = function(*map(jnp.asarray, arguments))
        chex.assert_tree_all_finite(found)
        np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-5)
