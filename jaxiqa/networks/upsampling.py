"""The 4×4 transposed convolution that doubles a map's sides, as in pix2pix and the colourisation network."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.conv import HE
from jaxiqa.nn.kernels.resampling import doubling_conv
from jaxiqa.pretrained.key_map import Rule, same


class UpConv(nnx.Module):
    """``b h w cin -> b 2h 2w cout``, stride 2, with a bias: PyTorch's ``ConvTranspose2d(cin, cout, 4, 2, 1)``.

    >>> UpConv(3, 5, rngs=nnx.Rngs(0))(jnp.ones((1, 2, 3, 3))).shape
    (1, 4, 6, 5)
    """

    def __init__(self, cin: int, cout: int, *, init: nnx.Initializer = HE, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (4, 4, cin, cout), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(cout))

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b 2*h 2*w cout"]:
        kernel = self.kernel[...]
        if jax.default_backend() == "cpu":
            return doubling_conv(x, kernel) + self.bias
        pads, layout = [(2, 2), (2, 2)], ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_transpose(x, kernel, (2, 2), pads, dimension_numbers=layout) + self.bias


def up_kernel(array: np.ndarray) -> np.ndarray:
    """Convert ``cin cout kh kw`` -> ``kh kw cin cout``, mirrored: PyTorch convolves with the kernel, JAX correlates."""
    return np.ascontiguousarray(array.transpose(2, 3, 0, 1)[::-1, ::-1])


def up_keys(source: str, target: str) -> tuple[Rule, ...]:
    """Return conversion rules for such a layer."""
    return ((rf"{source}\.weight", f"{target}.kernel", up_kernel), (rf"{source}\.bias", f"{target}.bias", same))
