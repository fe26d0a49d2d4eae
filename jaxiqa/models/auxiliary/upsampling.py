"""The 4×4 transposed convolution that doubles a map's sides, as in pix2pix and the colourisation network."""

import numpy as np
from flax import nnx

from jaxiqa.models.convert import Rule, same
from jaxiqa.models.convolution import HE


def up_conv(cin: int, cout: int, *, init: nnx.Initializer = HE, rngs: nnx.Rngs) -> nnx.ConvTranspose:
    """``b h w cin -> b 2h 2w cout``, stride 2, with a bias: PyTorch's ``ConvTranspose2d(cin, cout, 4, 2, 1)``.

    >>> import jax.numpy as jnp
    >>> up_conv(3, 5, rngs=nnx.Rngs(0))(jnp.ones((1, 2, 3, 3))).shape
    (1, 4, 6, 5)
    """
    return nnx.ConvTranspose(cin, cout, (4, 4), (2, 2), padding=[(2, 2), (2, 2)], kernel_init=init, rngs=rngs)


def up_kernel(array: np.ndarray) -> np.ndarray:
    """``cin cout kh kw`` -> ``kh kw cin cout``, mirrored: PyTorch spreads with the kernel, JAX correlates with it."""
    return np.ascontiguousarray(array.transpose(2, 3, 0, 1)[::-1, ::-1])


def up_keys(source: str, target: str) -> tuple[Rule, ...]:
    """Conversion rules for such a layer."""
    return ((rf"{source}\.weight", f"{target}.kernel", up_kernel), (rf"{source}\.bias", f"{target}.bias", same))
