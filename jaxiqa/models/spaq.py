"""The SPAQ baseline (Fang et al., "Perceptual Quality Assessment of Smartphone Photography", CVPR 2020)."""

from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.backbones import resnet
from jaxiqa.nn.crops import stride_crops
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

SHORTER_SIDE, PATCH, STRIDE = 512, 224, 112


RECIPE = Recipe(
    epochs=30,
    batch_size=16,
    loss="mae",
    labels="percent",
    learning_rate=1e-4,
    decay_every=10,
    flip=True,
    crops=1,
    crop=(PATCH, PATCH),
)
"""Random crops at the images' own size. **Differs**: no training code is published; the numbers are chosen here."""


class SPAQBaseline(Metric):
    """``score = mean over patches of fc(mean over pixels of layer4)``, a ResNet-50 whose input is not normalised.

    Protocol: images with both sides of 512 pixels or more are resized to 512 along the shorter one. Then 224x224
    patches are cut every 112 pixels, with a last row and column that end at the edge. Scores are about 0 to 100.
    Nothing is random: the key is ignored.

    **Differs from the paper**: an image with a side below 512, on which the published script fails, is scored at its
    own size; ``prepare`` does not round resized images to 8 bits.

    Args:
        width: channels of the backbone's first stage; 64 as published.
        rngs: random numbers for the weights.

    >>> model = nnx.eval_shape(lambda: SPAQBaseline(rngs=nnx.Rngs(0)))
    >>> images = jax.ShapeDtypeStruct((2, 600, 800, 3), "float32")
    >>> nnx.eval_shape(lambda model, images: model(images), model, images).shape
    (2,)
    """

    input_size = (PATCH, PATCH)
    published_range = (0.0, 100.0)
    recipe = RECIPE

    architecture = "resnet50"

    def __init__(self, *, width: int = 64, rngs: nnx.Rngs):
        self.backbone = resnet.RESNET50.build(width=width, rngs=rngs)
        self.fc = nnx.Linear(self.backbone.channels("layer4"), 1, rngs=rngs)
        self.keep(width=width)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1], both sides at least 224 pixels; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key)).reshape(images.shape[0], -1).mean(1)

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b_n 224 224 c"]:
        """Return the patches of all images, row by row, image 0 first; raise ``ValueError`` if one is too small."""
        del key
        check_images("images", images, minimum=PATCH)
        b, h, w, c = images.shape
        shorter = min(h, w)
        if shorter > SHORTER_SIDE:
            shape = (b, h * SHORTER_SIDE // shorter, w * SHORTER_SIDE // shorter, c)
            images = jax.image.resize(images, shape, "bilinear", antialias=True)
        return stride_crops(images, PATCH, STRIDE)

    def raw(self, pixels: Images) -> Scores:
        """Return one score per patch; patches may have any size."""
        return self.fc(self.features(pixels, ("pool",))["pool"])[:, 0]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps by name: stages of the backbone; ``pool``, the mean of ``layer4`` (``b channels``)."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        wanted = {"layer4" if name == "pool" else name for name in names}
        _, maps = self.backbone.run(pixels, taps=tuple(sorted(wanted)))
        return {name: maps["layer4"].mean((1, 2)) if name == "pool" else maps[name] for name in names}


RULES = (
    *key_map.under("backbone", resnet.rules(tuple(rf"backbone\.{name}" for name in resnet.NAMES))),
    *key_map.linear(r"backbone\.fc", "fc"),
)

SPAQ_SPEC = ModelSpec(
    metric=SPAQBaseline,
    rules=RULES,
    title="SPAQ-BL",
    paper="Fang et al., CVPR 2020",
    protocol="shorter side to 512 (bilinear, antialiased), 224x224 patches every 112 pixels and at the edges",
    results="SPAQ .908 / not given",
    licence="education and research only",
    weights={"spaq": WeightsUrl(url=None, page="https://github.com/h4nwei/SPAQ")},
)
