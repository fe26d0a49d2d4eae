"""HyperIQA (Su et al., "Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network", CVPR 2020).

A backbone (a ResNet-50 in the published metric) gives a vector of local distortions. Its last stage also gives the
weights of a small network that maps this vector to the score, so every image has its own weights.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones import BACKBONES, BACKBONES_WITH_LEVELS, resnet
from jaxiqa.nn.conv import conv
from jaxiqa.nn.crops import grid_crops, random_crops, uniform_crops
from jaxiqa.nn.global_pooling import global_pool
from jaxiqa.nn.stages import Features, normalise
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

CROP = 224
RESIZED = (512, 384)
CELLS = (8, 4, 2, 1)  # side of layer1 ... layer4 of a 224x224 crop after pooling over 7x7 pixels
HYPER = 112  # channels of the map that gives the weights
TARGET = (224, 112, 56, 28, 14, 1)  # widths of the target network


RECIPE = Recipe(
    epochs=16,
    batch_size=96,
    loss="mae",
    labels="percent",
    learning_rate=((0, 2e-4), (7, 2e-5), (10, 2e-6), (13, 2e-7)),
    backbone_factor=((0, 0.1), (7, 1.0), (10, 10.0), (13, 100.0)),
    weight_decay=5e-4,
    flip=True,
    crops=25,
    crop=(CROP, CROP),
    resize=(512, 384),
)
"""The published code for KonIQ-10k: the backbone's rate stays 2e-5, that of the other layers falls.

**Differs**: by a mistake, that code trains the other layers in the first epoch only (their list is an iterator that is
empty from then on); here they are trained to the end. It begins with a new Adam in each epoch; here Adam goes on."""


class Distortion(nnx.Module):
    """Mean over 7x7 pixels, a 1x1 convolution to fewer channels, and a linear map.

    The original pools after the convolution. Both are linear, so the result is the same at 1/49 of the cost.
    """

    def __init__(self, features: int, reduced: int, cells: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = conv(features, reduced, 1, rngs=rngs)
        self.linear = nnx.Linear(reduced * cells**2, outputs, rngs=rngs)

    def __call__(self, x: Features) -> Float[Array, "b outputs"]:
        return self.linear(_channels_first(self.conv(nnx.avg_pool(x, (7, 7), (7, 7)))))


class HyperIQA(Metric):
    """``score = t5(s(t4(s(t3(s(t2(s(t1(v))))))))``, s the sigmoid, ``t_i(x) = W_i x + b_i`` made from the image.

    ``v`` (224 numbers) comes from all four layers of the backbone. Three 1x1 convolutions of ``layer4`` give a map with
    112 channels: ``W_1`` to ``W_4`` are 3x3 convolutions of it, and the rest is linear in its mean. Scores of the
    published weights are about 0 to 100.

    Protocol: images are resized to 512x384 (height x width, without keeping the aspect ratio) and scored on 224x224
    crops: 25 evenly spaced ones (`crops.grid_positions`), or with a key 25 random ones as the authors do. The score is
    their mean. The authors' demonstration uses 10 crops.

    **Differs from the paper**: ``prepare`` does not round resized images to 8 bits.

    Args:
        backbone: a name in `jaxiqa.nn.backbones.BACKBONES` that has stages at strides 4, 8, 16 and 32 (``levels``);
            with another than ``"resnet50"`` the metric is new. ``layer4`` above stands for its last level.
        protocol: ``"official"``, or ``"pyiqa"``: native size and pyiqa's crops (`crops.uniform_crops`), never random.
        crops: number of crops per image.
        width: channels of the backbone's first stage; None: as published.
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown protocol, a backbone without four levels, or fewer than one crop.

    >>> model = nnx.eval_shape(lambda: HyperIQA(rngs=nnx.Rngs(0)))
    >>> images = jax.ShapeDtypeStruct((2, 600, 800, 3), "float32")
    >>> nnx.eval_shape(lambda model, images: model(images), model, images).shape
    (2,)
    """

    input_size = (CROP, CROP)
    published_range = (0.0, 100.0)
    recipe = RECIPE
    global_pooling = "mean"
    activation = "relu"

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        protocol: str = "official",
        crops: int = 25,
        width: int | None = None,
        rngs: nnx.Rngs,
    ):
        check_choice("backbone", backbone, BACKBONES_WITH_LEVELS)
        spec = BACKBONES[backbone]
        width = spec.width if width is None else width
        check_choice("protocol", protocol, ("official", "pyiqa"))
        check_number("crops", crops, 1)
        self.protocol, self.crops = protocol, crops
        self.architecture = backbone
        self.levels: tuple[str, ...] = spec.levels or ()
        self.mean, self.std = spec.mean, spec.std
        self.backbone = spec.build(width=width, rngs=rngs)
        widths = [self.backbone.channels(level) for level in self.levels]
        self.distortions = nnx.List(
            [
                Distortion(features, reduced, cells, 16, rngs=rngs)
                for features, reduced, cells in zip(widths[:3], (16, 32, 64), CELLS[:3], strict=True)
            ]
        )
        self.distortion4 = nnx.Linear(widths[3], TARGET[0] - 3 * 16, rngs=rngs)
        sizes = (widths[3], 1024, 512, HYPER)
        self.hyper = nnx.List([conv(sizes[i], sizes[i + 1], 1, bias=True, rngs=rngs) for i in range(3)])
        self.weights = nnx.List(
            [conv(HYPER, TARGET[i] * TARGET[i + 1] // 49, 3, bias=True, rngs=rngs) for i in range(4)]
        )
        self.weights5 = nnx.Linear(HYPER, TARGET[4] * TARGET[5], rngs=rngs)
        self.biases = nnx.List([nnx.Linear(HYPER, outputs, rngs=rngs) for outputs in TARGET[1:]])
        self.keep(backbone=backbone, protocol=protocol, crops=crops, width=width)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] of any size; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key)).reshape(images.shape[0], -1).mean(1)

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b_n 224 224 c"]:
        """Return the crops of all images, those of image 0 first; random crops with a key."""
        check_images("images", images)
        if self.protocol == "pyiqa":
            return uniform_crops(images, CROP, self.crops)
        shape = (images.shape[0], *RESIZED, images.shape[3])
        if images.shape != shape:
            images = jax.image.resize(images, shape, "bilinear", antialias=True)
        return grid_crops(images, CROP, self.crops) if key is None else random_crops(images, CROP, self.crops, key)

    def raw(self, pixels: Images) -> Scores:
        """Return one score per crop; raise ``ValueError`` unless the crops are 224x224."""
        return self.features(pixels, ("score",))["score"]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of crops by name.

        Stages of the backbone; ``hyper`` (``b 7 7 112``), ``distortion`` (``b 224``); of the target network: weights
        ``w1`` to ``w5`` (``b out in``), biases ``b1`` to ``b5`` (``b out``), layers ``t1`` to ``t4`` (``b out``, after
        the sigmoid) and ``score`` (``b``).
        """
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        stages = [name for name in names if name not in HEAD]
        if len(stages) < len(names) and pixels.shape[1:3] != (CROP, CROP):
            raise ValueError(f"pixels has shape {pixels.shape}; the network takes crops of {CROP}x{CROP}")
        wanted = {*stages, *(self.levels if len(stages) < len(names) else ())}
        pixels = normalise(pixels, self.mean, self.std)
        _, maps = self.backbone.run(pixels, taps=tuple(sorted(wanted)))
        if len(stages) < len(names):
            maps |= self._head(*(maps[level] for level in self.levels))
        return {name: maps[name] for name in names}

    def _head(self, layer1: Features, layer2: Features, layer3: Features, layer4: Features) -> dict[str, Array]:
        local = [lda(x) for lda, x in zip(self.distortions, (layer1, layer2, layer3), strict=True)]
        x = jnp.concatenate([*local, self.distortion4(global_pool(self.global_pooling, layer4))], axis=1)
        maps = {"distortion": x}
        hyper = layer4
        for layer in self.hyper:
            hyper = activate(self.activation, layer(hyper))
        mean = global_pool(self.global_pooling, hyper)
        flat = [*(_channels_first(layer(hyper)) for layer in self.weights), self.weights5(mean)]
        for i, (w, bias) in enumerate(zip(flat, self.biases, strict=True)):
            w, b = w.reshape(-1, TARGET[i + 1], TARGET[i]), bias(mean)
            x = jnp.einsum("boi,bi->bo", w, x) + b
            x = jax.nn.sigmoid(x) if i < 4 else x
            maps |= {f"w{i + 1}": w, f"b{i + 1}": b, f"t{i + 1}": x}
        return {**maps, "hyper": hyper, "score": x[:, 0]}


HEAD = frozenset(("hyper", "distortion", "score", *(f"{kind}{i}" for kind in "wb" for i in range(1, 6)))) | {
    f"t{i}" for i in range(1, 5)
}


def _channels_first(x: Features) -> Float[Array, "b n"]:
    """Flatten in the order c h w of the original's layers."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def _biased(source: str, target: str) -> tuple[key_map.Rule, ...]:
    return (*key_map.conv(source, target), (rf"{source}\.bias", f"{target}.bias", key_map.same))


def _target_layer(i: int) -> tuple[key_map.Rule, ...]:
    weights = key_map.linear(r"fc5w_fc", "weights5") if i == 5 else _biased(rf"fc{i}w_conv", f"weights.{i - 1}")
    return (*weights, *key_map.linear(rf"fc{i}b_fc", f"biases.{i - 1}"))


RULES = (
    *key_map.under("backbone", resnet.rules(tuple(rf"res\.{name}" for name in resnet.NAMES))),
    *(rule for i in range(3) for rule in key_map.conv(rf"res\.lda{i + 1}_pool\.0", f"distortions.{i}.conv")),
    *(rule for i in range(3) for rule in key_map.linear(rf"res\.lda{i + 1}_fc", f"distortions.{i}.linear")),
    *key_map.linear(r"res\.lda4_fc", "distortion4"),
    *(rule for i in range(3) for rule in _biased(rf"conv1\.{2 * i}", f"hyper.{i}")),
    *(rule for i in range(1, 6) for rule in _target_layer(i)),
)

HYPERIQA_SPEC = ModelSpec(
    metric=HyperIQA,
    rules=RULES,
    title="HyperIQA",
    paper="Su et al., CVPR 2020",
    protocol="resized to 512x384, 25 crops of 224x224 (pyiqa: native size, 25 uniform crops)",
    results="KonIQ-10k .906 / .917",
    licence="code MIT; of the weights unknown",
    weights={
        "koniq10k": WeightsUrl(
            url=None, page="https://github.com/SSL92/hyperIQA", sha256="ff9277bc", size=109_768_650
        )  # pyiqa's own file is not supported: it was retrained and has other parameter names
    },
)
