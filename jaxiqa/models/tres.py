"""TReS: a transformer over four pooled levels of a backbone, a ResNet-50 in the published metric.

"No-Reference Image Quality Assessment via Transformers, Relative Ranking, and Self-Consistency", arXiv:2108.06858.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.backbones import BACKBONES, BACKBONES_WITH_LEVELS, resnet
from jaxiqa.nn.crops import Crops, grid_crops, random_crops, uniform_crops
from jaxiqa.nn.encoder import EncoderLayer, position_encoding
from jaxiqa.nn.stages import normalise
from jaxiqa.nn.transformer import layer_norm
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

PARTS = ("pooled", "position", "encoder.0", "encoder.1", "encoder", "fc2")
CROP = 224
CROPS = 50


def unit_channels(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return ``x / max(‖x‖₂, 1e-12)``, the norm over channels; a zero vector stays zero, its norm has gradient zero.

    >>> print(jax.device_get(unit_channels(jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]]))).round(3))
    [[[[0.6 0.8]
       [0.  0. ]]]]
    """
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))


def l2_pool_smooth(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return ``sqrt(g * x² + 1e-12)``, ``g = [1 2 1]ᵀ [1 2 1] / 16``: the local root mean square, zero padding.

    >>> print(jax.device_get(l2_pool_smooth(jnp.ones((1, 3, 3, 1))))[0, 1, :, 0].round(3))
    [0.866 1.    0.866]
    """
    return jnp.sqrt(_smooth(_smooth(x * x, axis=1), axis=2) + 1e-12)


def _smooth(x: Array, axis: int) -> Array:
    """Apply ``[1 2 1] / 4`` along an axis. XLA must not fuse it: it would compute it once per use, 3 times slower."""
    count = x.shape[axis]
    zeros = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, count, axis=axis), zeros], axis)
    before = jnp.concatenate([zeros, jax.lax.slice_in_dim(x, 0, count - 1, axis=axis)], axis)
    return jax.lax.optimization_barrier(0.25 * before + 0.5 * x + 0.25 * after)


def block_mean(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Return the means of the equal blocks that cut a map into ``size`` (height, width), which divides its sides.

    >>> block_mean(jnp.arange(8.0).reshape(1, 2, 4, 1), (1, 2)).ravel().tolist()
    [2.5, 4.5]
    """
    b, h, w, c = x.shape
    return jnp.mean(x.reshape(b, size[0], h // size[0], size[1], w // size[1], c), (2, 4))


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
    (`jaxiqa.nn.crops.uniform_crops`).

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
        protocol: ``"official"`` or ``"pyiqa"``.
        width: channels of the backbone's first stage, a multiple of 4; all other widths scale with it. None: as
            published.
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown protocol, a backbone without four levels, or a width that is not allowed.

    >>> model = nnx.eval_shape(lambda: TReS(width=8, rngs=nnx.Rngs(0)))
    >>> jax.eval_shape(model.prepare, jnp.zeros((2, 300, 500, 3))).shape
    (100, 224, 224, 3)
    """

    input_size = (CROP, CROP)
    published_range = (0.0, 100.0)

    def __init__(
        self, *, backbone: str = "resnet50", protocol: str = "official", width: int | None = None, rngs: nnx.Rngs
    ):
        check_choice("backbone", backbone, BACKBONES_WITH_LEVELS)
        spec = BACKBONES[backbone]
        width = spec.width if width is None else width
        check_choice("protocol", protocol, ("official", "pyiqa"))
        if width < 4 or width % 4:
            raise ValueError(f"width={width!r} is not allowed; it must be a multiple of 4")
        self.architecture, self.protocol = backbone, protocol
        self.levels = tuple(spec.levels or ())
        self.mean, self.std = spec.mean, spec.std
        self.backbone = spec.build(width=width, rngs=rngs)
        channels = sum(self.backbone.channels(level) for level in self.levels)
        heads, hidden = math.gcd(16, channels), max(1, 64 * width // spec.width)
        self.layer = nnx.List([EncoderLayer(channels, heads=heads, hidden=hidden, rngs=rngs) for _ in range(2)])
        self.norm = layer_norm(channels, epsilon=1e-5, rngs=rngs)
        top = self.backbone.channels(self.levels[-1])
        self.fc2 = nnx.Linear(channels, top, rngs=rngs)
        self.fc = nnx.Linear(2 * top, 1, rngs=rngs)
        self.keep(backbone=backbone, protocol=protocol, width=width)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1]: the mean over crops, random ones with a key (``"official"``)."""
        check_unit_images(images)
        crops = self.prepare(images, key)
        parts: list[Array] = []
        for part in jnp.split(crops, max(1, images.shape[0])):  # image by image: 8 images at once took 7.5 GiB
            if parts:
                part, _ = jax.lax.optimization_barrier((part, parts[-1]))
            parts.append(jnp.mean(self.network(part)))
        return jnp.stack(parts)

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Crops:
        """Return 50 crops per image, those of image 0 first; see the class."""
        check_images("images", images)
        if self.protocol == "pyiqa":
            return uniform_crops(images, CROP, CROPS)
        images = jax.image.resize(images, (images.shape[0], 512, 384, images.shape[3]), "bilinear", antialias=True)
        if key is None:
            return grid_crops(images, CROP, CROPS)
        return random_crops(images, CROP, CROPS, key)

    def raw(self, pixels: Images) -> Scores:
        """Return one score per 224×224 crop."""
        top = self.levels[-1]
        maps = self.features(pixels, ("fc2", top))
        return self.fc(jnp.concatenate([maps["fc2"], jnp.mean(maps[top], (1, 2))], axis=1))[:, 0]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of crops by name.

        Stages of the backbone; ``pooled`` (the encoder's input, ``b 7 7 c``), ``position`` (added to it for queries and
        keys, ``1 7 7 c``), ``encoder.0``, ``encoder.1`` (its layers), ``encoder`` (its output, after the last norm;
        all ``b 7 7 c``) and ``fc2`` (``b c``).
        """
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        if pixels.shape[1:3] != self.input_size:
            raise ValueError(f"pixels is {pixels.shape[1]}x{pixels.shape[2]}; this network takes crops of 224x224")
        stages = {name for name in names if name not in PARTS}
        beyond = len(stages) < len(set(names))
        wanted = stages | set(self.levels) if beyond else stages
        _, maps = self.backbone.run(normalise(pixels, self.mean, self.std), taps=tuple(sorted(wanted)))
        if beyond:
            maps |= self._parts(maps)
        return {name: maps[name] for name in names}

    def _parts(self, maps: dict[str, Array]) -> dict[str, Array]:
        smooth = [l2_pool_smooth(unit_channels(maps[level])) for level in self.levels]
        _, h, w, _ = smooth[-1].shape
        pooled = jnp.concatenate([block_mean(x, (h, w)) for x in smooth], axis=-1)
        position = jnp.asarray(position_encoding(*pooled.shape[1:]))
        parts = {"pooled": pooled, "position": position[None]}
        tokens = pooled.reshape(pooled.shape[0], -1, pooled.shape[-1])
        for i, layer in enumerate(self.layer):
            tokens = layer(tokens, position.reshape(tokens.shape[1:]))
            parts[f"encoder.{i}"] = tokens.reshape(pooled.shape)
        parts["encoder"] = self.norm(tokens).reshape(pooled.shape)
        return parts | {"fc2": self.fc2(jnp.mean(parts["encoder"], (1, 2)))}


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
