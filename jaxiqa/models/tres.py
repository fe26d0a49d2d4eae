"""TReS: a transformer over four pooled levels of a backbone, a ResNet-50 in the published metric.

"No-Reference Image Quality Assessment via Transformers, Relative Ranking, and Self-Consistency", arXiv:2108.06858.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.models.tres_ranking import ranking_triplets
from jaxiqa.nn.backbones import BACKBONES, BACKBONES_WITH_LEVELS, resnet
from jaxiqa.nn.crops import Crops, grid_crops, random_crops, uniform_crops
from jaxiqa.nn.dropout import Dropout
from jaxiqa.nn.encoder import EncoderLayer, position_encoding
from jaxiqa.nn.global_pooling import global_pool
from jaxiqa.nn.level_pooling import block_mean, l2_pool_smooth, unit_channels
from jaxiqa.nn.stages import normalise
from jaxiqa.nn.transformer import layer_norm
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

PARTS = ("pooled", "position", "encoder.0", "encoder.1", "encoder", "fc2")
CROP = 224


RECIPE = Recipe(
    epochs=3,
    batch_size=53,
    loss="mae",
    labels="percent",
    learning_rate=((0, 2e-5), (1, 2e-6), (2, 2e-7)),
    weight_decay=5e-4,
    flip="both",
    crops=50,
    crop=(CROP, CROP),
    resize=(512, 384),
)
"""The published code for KonIQ-10k; its losses are in `TReS.total_loss`.

**Differs**: the code begins with a new Adam in each epoch; here Adam goes on."""


class TReS(Metric):
    """Quality score of 224×224 crops, averaged over the crops of an image.

    ``score = fc([fc2(mean of encoder(z)), mean of layer4])``. ``z`` has the four levels of the backbone side by side,
    each normalised to unit length over channels, smoothed (`l2_pool_smooth`) and averaged to 7×7. The encoder has two
    pre-norm layers over its 49 tokens of 3840 channels.

    The published network has a second pass over the mirrored image. It is only used in a training loss, so it is not
    computed here. The backbone's unused classifier is dropped from checkpoints.

    **Protocols.** ``"official"``, as for KonIQ-10k: resized to 512 × 384 (height × width, for any orientation of the
    image; bilinear, antialiased), then 50 crops: on an even grid (`jaxiqa.nn.crops.grid_crops`), or at uniformly
    random positions with a key. ``"pyiqa"``: 50 crops on that toolbox's fixed grid at native size
    (`jaxiqa.nn.crops.uniform_crops`). ``"whole"``: the whole image as one crop, resized to 224 × 224, as tested in the
    code of "Robustness as Architecture", arXiv:2506.04951.

    On a CPU, scoring a crop needs about 45 MiB besides the weights, and its gradient 170 MiB. The 50 crops of an image
    are one batch; images are scored one after another.

    Scores are MOS z-scores, about 0 to 100 on KonIQ-10k; higher is better. The published weights are under CMU's
    academic, non-commercial licence.

    **Differs from the paper**: layers normalise before attention, as in its code, and resized images are not rounded
    to 8 bits.

    Args:
        backbone: a name in `jaxiqa.nn.backbones.BACKBONES` that has stages at strides 4, 8, 16 and 32 (``levels``);
            with another than ``"resnet50"`` the metric is new. ``layer4`` above stands for its last level. The encoder
            then has 16 heads, or 8, 4, 2 or 1 if the number of channels is no multiple of 16.
        protocol: ``"official"``, ``"pyiqa"`` or ``"whole"``.
        crops: number of crops per image; ``"whole"`` has one. Time and memory of a score are proportional to it.
        width: channels of the backbone's first stage, a multiple of 4; all other widths scale with it. None: as
            published.
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown protocol, a backbone without four levels, fewer than one crop, or a width that is not
            allowed.

    >>> model = nnx.eval_shape(lambda: TReS(width=8, rngs=nnx.Rngs(0)))
    >>> jax.eval_shape(model.prepare, jnp.zeros((2, 300, 500, 3))).shape
    (100, 224, 224, 3)
    """

    input_size = (CROP, CROP)
    published_range = (0.0, 100.0)
    recipe = RECIPE
    global_pooling = "mean"
    loss_weights = {"score": 1.0, "mirrored": 1.0}  # noqa: RUF012

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        protocol: str = "official",
        crops: int = 50,
        width: int | None = None,
        rngs: nnx.Rngs,
    ):
        check_choice("backbone", backbone, BACKBONES_WITH_LEVELS)
        spec = BACKBONES[backbone]
        width = spec.width if width is None else width
        check_choice("protocol", protocol, ("official", "pyiqa", "whole"))
        check_number("crops", crops, 1)
        if width < 4 or width % 4:
            raise ValueError(f"width={width!r} is not allowed; it must be a multiple of 4")
        self.architecture, self.protocol, self.crops = backbone, protocol, crops
        self.levels = tuple(spec.levels or ())
        self.mean, self.std = spec.mean, spec.std
        self.backbone = spec.build(width=width, rngs=rngs)
        channels = sum(self.backbone.channels(level) for level in self.levels)
        heads, hidden = math.gcd(16, channels), max(1, 64 * width // spec.width)
        self.layer = nnx.List(
            [EncoderLayer(channels, heads=heads, hidden=hidden, dropout=0.5, rngs=rngs) for _ in range(2)]
        )
        self.dropout = nnx.List([Dropout(0.1, whole_maps=True) for _ in self.levels])
        self.norm = layer_norm(channels, epsilon=1e-5, rngs=rngs)
        top = self.backbone.channels(self.levels[-1])
        self.fc2 = nnx.Linear(channels, top, rngs=rngs)
        self.fc = nnx.Linear(2 * top, 1, rngs=rngs)
        self.keep(backbone=backbone, protocol=protocol, crops=crops, width=width)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1]: the mean over crops, random ones with a key (``"official"``)."""
        check_unit_images(images)
        crops = self.prepare(images, key)
        if self.protocol == "whole":
            return self.network(crops)
        parts: list[Array] = []
        for part in jnp.split(crops, max(1, images.shape[0])):  # image by image: 8 images at once took 7.5 GiB
            if parts:
                part, _ = jax.lax.optimization_barrier((part, parts[-1]))
            parts.append(jnp.mean(self.network(part)))
        return jnp.stack(parts)

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Crops:
        """Return the crops of all images, those of image 0 first; see the class."""
        check_images("images", images)
        if self.protocol == "whole":
            shape = (images.shape[0], CROP, CROP, images.shape[3])
            return jax.image.resize(images, shape, "bilinear", antialias=True)
        if self.protocol == "pyiqa":
            return uniform_crops(images, CROP, self.crops)
        images = jax.image.resize(images, (images.shape[0], 512, 384, images.shape[3]), "bilinear", antialias=True)
        if key is None:
            return grid_crops(images, CROP, self.crops)
        return random_crops(images, CROP, self.crops, key)

    def raw(self, pixels: Images) -> Scores:
        """Return one score per 224×224 crop."""
        return self._score(self.features(pixels, ("fc2", self.levels[-1])))

    def item_outputs(self, pixels: Images) -> dict[str, Array]:
        """Return the scores of crops (``score``) and of the mirrored crops (``mirrored``), and ``consistency``.

        The consistency is, per crop, the mean distance of both passes in the encoder's output and in the last level,
        of which each pass is compared with the other as a constant.
        """
        passes = []
        for mirrored in (False, True):
            maps = self._maps(pixels[:, :, :: -1 if mirrored else 1], drop=not mirrored)
            passes.append((self._score(maps), maps["encoder"], maps[self.levels[-1]]))
        (score, *first), (other, *second) = passes
        fixed = jax.lax.stop_gradient
        apart = [
            jnp.mean(jnp.abs(a - fixed(b)), (1, 2, 3)) + jnp.mean(jnp.abs(fixed(a) - b), (1, 2, 3))
            for a, b in zip(first, second, strict=True)
        ]
        return {"score": score, "mirrored": other, "consistency": sum(apart, jnp.zeros(len(pixels)))}

    @classmethod
    def total_loss(cls, outputs: Mapping[str, Array], mos: Array, loss: Callable[[Array, Array], Array]) -> Array:
        """Return the loss of the paper for a batch of crops; only ``loss(score, mos)`` for whole images.

        loss(score) + loss(mirrored) + consistency + 0.5 · 2 |t − t'| + 0.05 (t + t'), where t and t' are
        `ranking_triplets` of both passes.
        """
        if "mirrored" not in outputs:
            return loss(outputs["score"], mos)
        predictions = [outputs[name] for name in ("score", "mirrored")]
        t, mirrored = (ranking_triplets(values, mos) for values in predictions)
        fixed = jax.lax.stop_gradient
        relative = jnp.abs(t - fixed(mirrored)) + jnp.abs(fixed(t) - mirrored)
        on_labels = sum((loss(values, mos) for values in predictions), jnp.float32(0))
        return on_labels + jnp.mean(outputs["consistency"]) + 0.5 * relative + 0.05 * (t + mirrored)

    def _check(self, pixels: Images) -> None:
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        if pixels.shape[1:3] != self.input_size:
            raise ValueError(f"pixels is {pixels.shape[1]}x{pixels.shape[2]}; this network takes crops of 224x224")

    def _maps(self, pixels: Images, *, drop: bool = False) -> dict[str, Array]:
        self._check(pixels)
        _, maps = self.backbone.run(normalise(pixels, self.mean, self.std), taps=self.levels)
        return maps | self._parts(maps, drop=drop)

    def _score(self, maps: dict[str, Array]) -> Scores:
        return self.fc(jnp.concatenate([maps["fc2"], global_pool(self.global_pooling, maps[self.levels[-1]])], 1))[:, 0]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of crops by name.

        Stages of the backbone; ``pooled`` (the encoder's input, ``b 7 7 c``), ``position`` (added to it for queries and
        keys, ``1 7 7 c``), ``encoder.0``, ``encoder.1`` (its layers), ``encoder`` (its output, after the last norm;
        all ``b 7 7 c``) and ``fc2`` (``b c``).
        """
        self._check(pixels)
        stages = {name for name in names if name not in PARTS}
        beyond = len(stages) < len(set(names))
        wanted = stages | set(self.levels) if beyond else stages
        _, maps = self.backbone.run(normalise(pixels, self.mean, self.std), taps=tuple(sorted(wanted)))
        if beyond:
            maps |= self._parts(maps)
        return {name: maps[name] for name in names}

    def _parts(self, maps: dict[str, Array], *, drop: bool = False) -> dict[str, Array]:
        smooth = [l2_pool_smooth(unit_channels(maps[level])) for level in self.levels]
        if drop:
            smooth = [dropout(x) for dropout, x in zip(self.dropout, smooth, strict=True)]
        _, h, w, _ = smooth[-1].shape
        pooled = jnp.concatenate([block_mean(x, (h, w)) for x in smooth], axis=-1)
        position = jnp.asarray(position_encoding(*pooled.shape[1:]))
        parts = {"pooled": pooled, "position": position[None]}
        tokens = pooled.reshape(pooled.shape[0], -1, pooled.shape[-1])
        for i, layer in enumerate(self.layer):
            tokens = layer(tokens, position.reshape(tokens.shape[1:]))
            parts[f"encoder.{i}"] = tokens.reshape(pooled.shape)
        parts["encoder"] = self.norm(tokens).reshape(pooled.shape)
        return parts | {"fc2": self.fc2(global_pool(self.global_pooling, parts["encoder"]))}


def _three_kernels(array: np.ndarray) -> np.ndarray:
    """Stack queries, keys and values along the outputs, ``3·out in`` -> ``3 out in``."""
    return array.reshape(3, -1, array.shape[-1])


def _three_biases(array: np.ndarray) -> np.ndarray:
    return array.reshape(3, -1)


_ENCODER = r"transformer\.encoder\.layers\.(\d)"
RULES = (
    *key_map.under("backbone", resnet.rules(tuple(rf"model\.{name}" for name in resnet.NAMES))),
    *key_map.without(key_map.linear(r"model\.fc", "")),
    (r"L2pooling_l\d\.filter", None, key_map.same),  # always the filter of l2_pool_smooth
    (rf"{_ENCODER}\.self_attn\.in_proj_weight", r"layer.\1.qkv.kernel", _three_kernels),
    (rf"{_ENCODER}\.self_attn\.in_proj_bias", r"layer.\1.qkv.bias", _three_biases),
    *key_map.linear(rf"{_ENCODER}\.self_attn\.out_proj", r"layer.\1.out"),
    *key_map.linear(rf"{_ENCODER}\.linear(\d)", r"layer.\1.linear\2"),
    *key_map.layer_norm(rf"{_ENCODER}\.norm(\d)", r"layer.\1.norm\2"),
    *key_map.layer_norm(r"transformer\.encoder\.norm", "norm"),
    *key_map.linear("(fc2|fc)", r"\1"),
)

TRES_SPEC = ModelSpec(
    metric=TReS,
    rules=RULES,
    title="TReS",
    paper="arXiv:2108.06858",
    protocol="resized to 512x384, mean over 50 crops of 224x224",
    results="KonIQ-10k .915 / .928",
    licence="CMU academic, non-commercial",
    weights={
        "koniq10k": WeightsUrl(
            url="https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/tres_koniq-f0502926.pth",
            page="https://github.com/isalirezag/TReS",
            sha256="f0502926",
        ),
        "flive": WeightsUrl(
            url="https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/tres_flive-09b0de5b.pth",
            page="https://github.com/isalirezag/TReS",
            sha256="09b0de5b",
        ),
    },
)
