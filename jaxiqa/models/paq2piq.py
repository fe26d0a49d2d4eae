"""PaQ-2-PiQ: one score for an image and one for each of its patches, from pooled regions.

"From Patches to Pictures (PaQ-2-PiQ): Mapping the Perceptual Space of Picture Quality", arXiv:1912.10088.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones import resnet
from jaxiqa.nn.dropout import Dropout
from jaxiqa.nn.roi_pool import check_boxes, pool_boxes, roi_bins, roi_max_pool
from jaxiqa.nn.stages import Features
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

GRID = 20  # patches along each side
MEAN, LEFT, RIGHT = 72.59696108881171, 7.798274017370107, 4.118047289170692  # of the scores of many images

Boxes = Num[Array, "b r 4"] | Num[np.ndarray, "b r 4"]
"""Left, top, right and bottom in pixels, inside the image; right - left is the width."""

RECIPE = Recipe(
    epochs=10, batch_size=120, loss="mse", labels="percent", learning_rate=1e-3, backbone_factor=0.1, schedule="cosine"
)
"""Ten epochs in batches of 120, as the published file's name says, with the mean squared error.

The authors train on the labels of each image and of its three patches: ``Data("flive", options={"patches": True})``.
Other data has one label per image.

**Differs**: learning rates are not published; the authors use one-cycle schedules with lower rates for lower layers.
They pad images to 640 × 640 and pool the image's own region; here images have one size or are resized to one."""


class PaQ2PiQ(Metric):
    """``score = head(RoI of the whole image)``, over a ResNet-18 whose input is not normalised.

    A region of interest (RoI) of ``layer4`` is max-pooled to 2x2 cells (`roi_max_pool`). Their maximum and their mean
    go through batch norm, a linear map, ReLU, batch norm and a linear map. `regions` gives the scores of boxes,
    `local_map` a score for each patch of a 20x20 grid. Scores are about 0 to 100.

    Protocol: the image at its own size, one pass. Nothing is random: the key is ignored.

    Args:
        width: channels of the backbone's first stage; 64 as published.
        rngs: random numbers for the weights.

    >>> import jax
    >>> model = nnx.eval_shape(lambda: PaQ2PiQ(rngs=nnx.Rngs(0)))
    >>> images = jax.ShapeDtypeStruct((2, 300, 400, 3), "float32")
    >>> nnx.eval_shape(lambda model, images: (model(images), model.local_map(images)), model, images)
    (ShapeDtypeStruct(shape=(2,), dtype=float32), ShapeDtypeStruct(shape=(2, 20, 20), dtype=float32))
    """

    input_size = None
    published_range = (0.0, 100.0)
    activation = "relu"
    recipe = RECIPE
    regional = True

    architecture = "resnet18"

    def __init__(self, *, width: int = 64, rngs: nnx.Rngs):
        self.backbone = resnet.RESNET18.build(width=width, rngs=rngs)
        channels = self.backbone.channels("layer4")
        self.norm1, self.norm2 = (
            nnx.BatchNorm(n, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
            for n in (2 * channels, 512)
        )
        self.linear1 = nnx.Linear(2 * channels, 512, rngs=rngs)
        self.linear2 = nnx.Linear(512, 1, rngs=rngs)
        self.dropout1, self.dropout2 = Dropout(0.25), Dropout(0.5)
        self.keep(width=width)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] of any size; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Images:
        """Return the images unchanged."""
        del key
        check_images("images", images)
        return images

    def raw(self, pixels: Images) -> Scores:
        """Return one score per image, from the region that covers all of it."""
        return self._score(self._pooled(self._layer4(pixels), pixels.shape, 1))[:, 0, 0]

    def local_map(self, pixels: Images) -> Float[Array, "b 20 20"]:
        """Return a score for each patch of a 20x20 grid over the image."""
        return self.calibrated(self._score(self._pooled(self._layer4(pixels), pixels.shape, GRID)))

    def regions(self, images: Images, boxes: Boxes) -> Float[Array, "b r"]:
        """Return the score of each box of each image; higher is better, on the scale of the image's score.

        Args:
            images: RGB, in [0, 1].
            boxes: left, top, right and bottom in pixels, inside the image; right - left is the width.

        Raises:
            ValueError: boxes of another shape, or (unless traced) an empty one or one that is not inside its image.

        >>> model = nnx.eval_shape(lambda: PaQ2PiQ(rngs=nnx.Rngs(0)))
        >>> boxes = np.array([[[0, 0, 96, 64], [10, 0, 50, 40]]])
        >>> nnx.eval_shape(lambda model: model.regions(jnp.zeros((1, 64, 96, 3)), boxes), model).shape
        (1, 2)
        """
        check_unit_images(images)
        return self.calibrated(self.region_outputs(images, boxes)["regions"])

    def region_outputs(self, images: Images, boxes: Boxes) -> dict[str, Array]:
        """Return raw scores of the images (``score``, ``b``) and of their boxes (``regions``, ``b r``): see `regions`.

        Batch norms in training mode use the regions of all images together, as in the authors' code.
        """
        pixels = self.prepare(images)
        check_boxes(boxes, pixels.shape)
        x = self._layer4(pixels)
        whole = self._pooled(x, pixels.shape, 1)[:, 0]
        scores = self._score(jnp.concatenate([whole, pool_boxes(x, jnp.asarray(boxes, jnp.float32))], axis=1))
        return {"score": scores[:, 0], "regions": scores[:, 1:]}

    @classmethod
    def total_loss(cls, outputs: Mapping[str, Array], mos: Array, loss: Callable[[Array, Array], Array]) -> Array:
        """Return the loss of all scores: those of the images, and of their regions if these have labels.

        With r regions per image, the loss compares b · (1 + r) scores with their labels, all of one weight.
        """
        if "regions" not in outputs:
            return super().total_loss(outputs, mos, loss)
        predictions = jnp.concatenate([outputs["score"][:, None], outputs["regions"]], axis=1)
        labels = jnp.concatenate([mos[:, None], outputs["region_mos"]], axis=1)
        return loss(predictions.ravel(), labels.ravel())

    @staticmethod
    def normalised(scores: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Rescale scores as published, monotone and clipped to [0, 100], with m = 72.597, l = 7.798, r = 4.118.

        ``m + m (s - m) / 4l`` below m, ``m + (100 - m) (s - m) / 4r`` above it.

        >>> [f"{score:.2f}" for score in PaQ2PiQ.normalised(jnp.array([35.0, 70.0, 75.0, 95.0]))]
        ['0.00', '66.55', '76.59', '100.00']
        """
        slope = jnp.where(scores < MEAN, MEAN / (4 * LEFT), (100 - MEAN) / (4 * RIGHT))
        return jnp.clip(MEAN + slope * (scores - MEAN), 0.0, 100.0)

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps by name: stages of the backbone, and three of all 401 regions, the whole image first.

        ``roi_pool`` (``b 401 2 2 c``), ``concat_pool`` (``b 401 2c``: maximum, then mean) and ``hidden``
        (``b 401 512``, after the second batch norm).
        """
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        head = ("roi_pool", "concat_pool", "hidden")
        wanted = {"layer4" if name in head else name for name in names}
        _, maps = self.backbone.run(pixels, taps=tuple(sorted(wanted)))
        if set(head) & set(names):
            regions = [self._pooled(maps["layer4"], pixels.shape, count) for count in (1, GRID)]
            x = jnp.concatenate([x.reshape(x.shape[0], -1, *x.shape[3:]) for x in regions], axis=1)
            pooled = _concat_pool(x)
            maps |= {"roi_pool": x, "concat_pool": pooled, "hidden": self._hidden(pooled)}
        return {name: maps[name] for name in names}

    def _layer4(self, pixels: Images) -> Features:
        return self.features(pixels, ("layer4",))["layer4"]

    def _pooled(self, x: Features, shape: tuple[int, ...], count: int) -> Float[Array, "b n n 2 2 c"]:
        """Return the regions of a ``count`` x ``count`` grid, each in 2x2 cells."""
        rows, columns = (roi_bins(side, cells, count) for side, cells in zip(shape[1:3], x.shape[1:3], strict=True))
        x = roi_max_pool(x, rows, columns)
        return x.reshape(x.shape[0], count, 2, count, 2, x.shape[3]).transpose(0, 1, 3, 2, 4, 5)

    def _hidden(self, x: Float[Array, "*n features"]) -> Float[Array, "*n 512"]:
        return self.norm2(activate(self.activation, self.linear1(self.dropout1(self.norm1(x)))))

    def _score(self, regions: Float[Array, "*n 2 2 c"]) -> Float[Array, "*n"]:
        return self.linear2(self.dropout2(self._hidden(_concat_pool(regions))))[..., 0]


def _concat_pool(regions: Float[Array, "*n 2 2 c"]) -> Float[Array, "*n features"]:
    return jnp.concatenate([regions.max((-3, -2)), regions.mean((-3, -2))], axis=-1)


RULES = (
    *key_map.under("backbone", resnet.rules(tuple(rf"body\.{i}" for i in (0, 1, 4, 5, 6, 7)))),
    *key_map.batch_norm(r"head\.2", "norm1"),
    *key_map.linear(r"head\.4", "linear1"),
    *key_map.batch_norm(r"head\.6", "norm2"),
    *key_map.linear(r"head\.8", "linear2"),
)

_AUTHORS = "https://github.com/baidut/PaQ-2-PiQ"
_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights"

PAQ2PIQ_SPEC = ModelSpec(
    metric=PaQ2PiQ,
    rules=RULES,
    title="PaQ-2-PiQ (RoIPool)",
    paper="arXiv:1912.10088",
    protocol="native size, one pass",
    results="KonIQ-10k .643 / .706, not trained on it",
    licence="code MIT; the authors' other repository, which holds the weights, CC-BY-NC-SA",
    weights={
        "flive": WeightsUrl(
            url=f"{_AUTHORS}/releases/download/v1.0/RoIPoolModel-fit.10.bs.120.pth",
            page=f"{_AUTHORS}/releases",
        ),
        "pyiqa": WeightsUrl(
            url=f"{_PYIQA}/resolve/main/P2P_RoIPoolModel-fit.10.bs.120-ca69882e.pth",
            page=_PYIQA,
            sha256="ca69882e",
        ),
    },
)
