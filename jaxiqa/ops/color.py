"""sRGB and CIELAB (D65), in both directions, with gradients that are finite everywhere. Any leading axes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32

Colors = Float[Array, "*b 3"]

# IEC 61966-2-1 primaries and the D65 white point of the 2° observer, with the digits of scikit-image.
XYZ_OF_RGB = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
RGB_OF_XYZ = np.array(
    [[3.24048134, -1.53715152, -0.49853633], [-0.96925495, 1.87599, 0.04155593], [0.05564664, -0.20404134, 1.05731107]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


@at_least_float32
def rgb_to_lab(rgb: Colors) -> Colors:
    """Convert sRGB in [0, 1] to L in [0, 100], a and b within about ±110.

        L = 116 f(Y) − 16,  a = 500 (f(X) − f(Y)),  b = 200 (f(Y) − f(Z))

    with X, Y, Z linear and divided by those of white; f is the cube root, or 7.787 t + 16/116 up to 0.008856.

    >>> [f"{value:.2f}" for value in rgb_to_lab(jnp.array([1.0, 0.0, 0.0]))]
    ['53.24', '80.09', '67.20']
    """
    linear = jnp.where(rgb > 0.04045, ((_above(rgb, 0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _apply(XYZ_OF_RGB / WHITE[:, None], linear)
    f = jnp.where(xyz > 0.008856, _above(xyz, 0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@at_least_float32
def lab_to_rgb(lab: Colors) -> Colors:
    """Convert L in [0, 100], a, b to sRGB: the inverse of `rgb_to_lab` up to the digits of its constants, about 1e-4.

    Colours outside the gamut are clipped at 0 below, but not above: clip to [0, 1] if needed. Their gradient is zero in
    the clipped channels.

    >>> [f"{value:.2f}" for value in lab_to_rgb(jnp.array([53.24, 80.09, 67.2]))]
    ['1.00', '0.00', '0.00']
    """
    y = (lab[..., 0] + 16) / 116
    f = jnp.stack([y + lab[..., 1] / 500, y, jnp.maximum(y - lab[..., 2] / 200, 0)], axis=-1)
    xyz = jnp.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    linear = _apply(RGB_OF_XYZ * WHITE, xyz)
    curved = 1.055 * _above(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(linear > 0.0031308, curved, 12.92 * jnp.maximum(linear, 0))


def _above(x: Array, threshold: float) -> Array:
    """Return x where a power of it is used, and elsewhere a number whose power has a finite slope."""
    return jnp.where(x > threshold, x, 1.0)


def _apply(matrix: np.ndarray, colors: Colors) -> Colors:
    """Multiply every colour by the matrix, in full precision on accelerators too."""
    return jnp.einsum("...i,ji->...j", colors, jnp.asarray(matrix, colors.dtype), precision=jax.lax.Precision.HIGHEST)
