"""MetaIQA: a ResNet-18, its ImageNet classifier, and three layers on the 1000 class scores.

"MetaIQA: Deep Meta-learning for No-Reference Image Quality Assessment", arXiv:2004.05508.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.backbones import resnet
from jaxiqa.nn.dropout import Dropout
from jaxiqa.nn.stages import normalise
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

SIDE = 224
CLASSES = 1000


RECIPE = Recipe(
    epochs=100,
    batch_size=50,
    loss="mse",
    labels="unit",
    learning_rate=tuple((epoch, 1e-4 * 0.8 ** sum(e // 10 for e in range(epoch + 1))) for epoch in range(100)),
    flip=True,
    crops=1,
    crop=(SIDE, SIDE),
    resize=(256, 256),
)
"""The fine-tuning of the published code: in every epoch e the rate is multiplied by 0.8^⌊e / 10⌋.

**Differs**: the code divides labels by 100 and does not shuffle the images; here labels run from 0 to 1, and images are
shuffled."""


class Hidden(nnx.Module):
    """A linear map, batch norm, PReLU with one slope for all units, and dropout of one half."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(features, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.slope = nnx.Param(jnp.full(1, 0.25))
        self.dropout = Dropout(0.5)

    def __call__(self, x: Float[Array, "b features"]) -> Float[Array, "b hidden"]:
        x = self.norm(self.linear(x))
        return self.dropout(jax.nn.leaky_relu(x, self.slope[...]))


class MetaIQA(Metric):
    """``score = sigmoid(fc3(hidden2(hidden1(classifier(mean over pixels of layer4)))))``, in (0, 1).

    Protocol: the whole image is resized to 224x224, without keeping the aspect ratio, and scored in one pass. Nothing
    is random: the key is ignored. The published files are priors, meant to be fine-tuned on the images that will be
    scored.

    **Differs from the paper**: the official script resizes with scikit-image, whose smoothing depends on its version.
    Here the filter is a triangle as wide as the reduction (Pillow's, without its rounding to 8 bits).

    Args:
        protocol: ``"official"`` resizes as above; ``"pyiqa"`` bilinearly without any smoothing.
        width: channels of the backbone's first stage; 64 as published.
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown protocol.

    >>> model = nnx.eval_shape(lambda: MetaIQA(rngs=nnx.Rngs(0)))
    >>> images = jax.ShapeDtypeStruct((2, 600, 800, 3), "float32")
    >>> nnx.eval_shape(lambda model, images: model(images), model, images).shape
    (2,)
    """

    input_size = (SIDE, SIDE)
    std = resnet.STD
    published_range = (0.0, 1.0)
    recipe = RECIPE

    architecture = "resnet18"

    def __init__(self, *, protocol: str = "official", width: int = 64, rngs: nnx.Rngs):
        check_choice("protocol", protocol, ("official", "pyiqa"))
        self.protocol = protocol
        self.backbone = resnet.RESNET18.build(width=width, rngs=rngs)
        self.classifier = nnx.Linear(self.backbone.channels("layer4"), CLASSES, rngs=rngs)
        self.hidden1 = Hidden(CLASSES, 1024, rngs=rngs)
        self.hidden2 = Hidden(1024, 512, rngs=rngs)
        self.fc3 = nnx.Linear(512, 1, rngs=rngs)
        self.keep(protocol=protocol, width=width)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] of any size; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b 224 224 c"]:
        """Resize images to 224x224 by the protocol."""
        del key
        check_images("images", images)
        shape = (images.shape[0], SIDE, SIDE, images.shape[3])
        return jax.image.resize(images, shape, "bilinear", antialias=self.protocol == "official")

    def raw(self, pixels: Images) -> Scores:
        """Return scores of prepared images."""
        return jax.nn.sigmoid(self.features(pixels, ("fc3",))["fc3"][:, 0])

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of prepared images by name.

        Stages of the backbone, ``classifier`` (``b 1000``), ``hidden1`` (``b 1024``), ``hidden2`` (``b 512``) and
        ``fc3`` (``b 1``, the score before the sigmoid).
        """
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        head = ("classifier", "hidden1", "hidden2", "fc3")
        wanted = {"layer4" if name in head else name for name in names}
        pixels = normalise(pixels, resnet.MEAN, self.std)
        _, maps = self.backbone.run(pixels, taps=tuple(sorted(wanted)))
        if "layer4" in maps:
            x = maps["layer4"].mean((1, 2))
            for name in head:
                x = maps[name] = getattr(self, name)(x)
        return {name: maps[name] for name in names}


def _hidden(i: int) -> tuple[key_map.Rule, ...]:
    head = "(?:net|head)"  # the authors' name, and pyiqa's
    return (
        *key_map.linear(rf"{head}\.fc{i}", f"hidden{i}.linear"),
        *key_map.batch_norm(rf"{head}\.bn{i}", f"hidden{i}.norm"),
        (rf"{head}\.relu{i}\.weight", f"hidden{i}.slope", key_map.same),
    )


RULES = (
    *key_map.under("backbone", resnet.rules(tuple(rf"resnet_layer\.{name}" for name in resnet.NAMES))),
    *key_map.linear(r"resnet_layer\.fc", "classifier"),
    *_hidden(1),
    *_hidden(2),
    *key_map.linear(r"(?:net|head)\.fc3", "fc3"),
)

_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights"

METAIQA_SPEC = ModelSpec(
    metric=MetaIQA,
    rules=RULES,
    title="MetaIQA",
    paper="arXiv:2004.05508",
    protocol="resized to 224x224 (bilinear, antialiased; pyiqa: not antialiased)",
    results="KonIQ-10k .850 / .887, after fine-tuning on it",
    licence="none given",
    weights={
        "tid2013": WeightsUrl(url=None, page="https://github.com/zhuhancheng/MetaIQA"),
        "tid2013_kadid10k": WeightsUrl(url=None, page="https://github.com/zhuhancheng/MetaIQA"),
        "pyiqa_prior": WeightsUrl(url=f"{_PYIQA}/resolve/main/Metaiqa_prior.pth", page=_PYIQA),
        "pyiqa_livec": WeightsUrl(url=f"{_PYIQA}/resolve/main/Metaiqa_livec.pth", page=_PYIQA),
    },
)
