"""JPEG compression and decompression as a differentiable function."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32
from jaxiqa.core.types import Images
from jaxiqa.ops.filters import gaussian_blur
from jaxiqa.ops.resize import resize_bilinear

# ITU-T T.81, tables K.1 and K.2.
LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = np.full((8, 8), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

YCC_OF_RGB = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
RGB_OF_YCC = np.linalg.inv(YCC_OF_RGB)
_WAVES = np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
_WAVES[0] /= np.sqrt(2)
DCT = np.kron(_WAVES, _WAVES)
"""The orthonormal transform of an 8×8 block, read row by row."""
SIDE = 16  # of the squares in which subsampled chroma is coded


@partial(jax.jit, static_argnames="variant")
@at_least_float32
def jpeg(images: Images, quality: int | float | Array, *, variant: str = "paper") -> Images:
    """Apply a JPEG codec with 4:2:0 chroma to images: everything but the lossless part.

        YCbCr → 2×2 means of chroma → per 8×8 block: Dᵀ(T · round(D x / T)) → bilinear chroma → RGB, clipped

    D is the DCT and T the standard tables, scaled by ``quality`` (`quantization_tables`). Sides are padded to multiples
    of 16. The gradient of rounding is ``3 (x − round x)²``, that of ``round x + (x − round x)³``.

    Args:
        images: ``b h w 3`` in [0, 1].
        quality: 1 to 100.
        variant: ``"paper"`` pads by repeating the border, as little as needed, as libjpeg does, and has no gradient
            where the result is clipped. ``"benchmark"`` pads by reflection, 1 to 16 pixels, so sides must have at
            least 17 pixels; blurs chroma (3×3, σ = ½) before taking its means; and has a thousandth of the gradient
            where the result is clipped.

    Raises:
        ValueError: bad or too small images, or an unknown variant.

    >>> image = jnp.full((1, 5, 7, 3), 0.5)
    >>> bool(jnp.abs(jpeg(image, 90) - image).max() < 0.01)
    True

    Reference: Shin and Song, "JPEG-resistant adversarial images", 2017; tables of ITU-T T.81.
    """
    check_choice("variant", variant, ("paper", "benchmark"))
    check_images("images", images, minimum=17 if variant == "benchmark" else 1)
    _, h, w, _ = images.shape
    wide = tuple(side + SIDE - (side % SIDE or (0 if variant == "benchmark" else SIDE)) for side in (h, w))
    padding = ((0, 0), (0, wide[0] - h), (0, wide[1] - w), (0, 0))
    padded = 255 * jnp.pad(images, padding, mode="reflect" if variant == "benchmark" else "edge")
    luma, chroma = _mix(padded, YCC_OF_RGB[:1]), _mix(padded, YCC_OF_RGB[1:])
    if variant == "benchmark":
        chroma = gaussian_blur(chroma, 3, 0.5)
    tables = quantization_tables(jnp.asarray(quality, images.dtype))
    luma = _quantized(luma - 128, tables[0]) + 128
    chroma = resize_bilinear(_quantized(_halved(chroma), tables[1]), wide)
    decoded = _mix(jnp.concatenate([luma, chroma], -1)[:, :h, :w], RGB_OF_YCC)
    # Rounding errors must not zero the gradient of flat black and white.
    slope, room = (1e-3, 0.0) if variant == "benchmark" else (0.0, 1e-3)
    inside = jnp.abs(decoded - 127.5) <= 127.5 + room
    return _with_gradient_of(jnp.clip(decoded, 0, 255), jnp.where(inside, decoded, slope * decoded)) / 255


def quantization_tables(quality: int | float | Array) -> Float[Array, "2 8 8"]:
    """Return the standard tables for luma and chroma, scaled as in libjpeg: ``⌊(t s + 50) / 100⌋`` within 1 to 255.

    s is ``⌊5000 / quality⌋`` below 50, else ``200 − 2 quality``.

    >>> quantization_tables(90)[0, 0].astype(int).tolist()
    [3, 2, 2, 3, 5, 8, 10, 12]
    """
    quality = jnp.asarray(quality)
    quality = quality.astype(jnp.promote_types(quality.dtype, jnp.float32))
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((jnp.stack([LUMA, CHROMA]) * scale + 50) / 100), 1, 255)


def _mix(images: Array, matrix: np.ndarray) -> Array:
    """Multiply every colour by the matrix."""
    parts = [images[..., i] for i in range(images.shape[-1])]
    return jnp.stack([sum(float(m) * part for m, part in zip(row, parts, strict=True)) for row in matrix], -1)


def _halved(planes: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    b, h, w, c = planes.shape
    return planes.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _quantized(planes: Float[Array, "b h w c"], table: Float[Array, "8 8"]) -> Float[Array, "b h w c"]:
    b, h, w, c = planes.shape
    blocks = planes.reshape(b, h // 8, 8, w // 8, 8, c).transpose(0, 1, 3, 5, 2, 4)
    dct, steps = jnp.asarray(DCT, planes.dtype), table.reshape(64).astype(planes.dtype)
    highest = jax.lax.Precision.HIGHEST
    waves = jnp.matmul(blocks.reshape(-1, 64), dct.T, precision=highest) / steps
    rounded = jnp.round(waves)
    kept = _with_gradient_of(rounded, (waves - jax.lax.stop_gradient(rounded)) ** 3) * steps
    blocks = jnp.matmul(kept, dct, precision=highest).reshape(blocks.shape)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(b, h, w, c)


def _with_gradient_of(value: Array, other: Array) -> Array:
    """Return ``value`` plus a difference that is zero, so that only the gradient changes."""
    return jax.lax.stop_gradient(value) + (other - jax.lax.stop_gradient(other))
