"""The no-reference path of FPR, "No-Reference Image Quality Assessment by Hallucinating Pristine Features".

doi:10.1109/TIP.2022.3205770. The score is a weighted mean over patches.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.images import check_images, check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.layers.blur import antialias
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.conv import conv
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.stages import Stages
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

SIDE = 64
MOST = 1024  # largest number of patches per image


RECIPE = Recipe(
    epochs=100,
    batch_size=32,
    loss="mae",
    labels="percent",
    learning_rate=1e-4,
    weight_decay=1e-4,
    flip=True,
    crops=1,
    crop=(SIDE, SIDE),
    patches=8,
)
"""The no-reference path alone: eight random patches of an image are one example.

**Differs**: the published training also has the reference's path, its two losses and triplets of features, all of which
need reference images."""


def cut(images: Images) -> Float[Array, "b n 64 64 c"]:
    """Cut images into 64 × 64 patches, side by side from the top left corner.

    A rest at the right and at the bottom is dropped. The order is down the first column, then down the second, …

    >>> cut(jnp.zeros((2, 150, 270, 3))).shape
    (2, 8, 64, 64, 3)
    """
    check_images("images", images, minimum=SIDE)
    b, h, w, c = images.shape
    rows, columns = h // SIDE, w // SIDE
    grid = images[:, : rows * SIDE, : columns * SIDE].reshape(b, rows, SIDE, columns, SIDE, c)
    return grid.transpose(0, 3, 1, 2, 4, 5).reshape(b, rows * columns, SIDE, SIDE, c)


def gru(
    inputs: Float[Array, "b n gates"],
    kernel: Float[Array, "hidden gates"],
    bias: Float[Array, " gates"],
) -> Float[Array, "b n hidden"]:
    """Apply a gated recurrent unit along axis 1, from a zero state, in PyTorch's form.

    With i = ``inputs`` and k = h·``kernel`` + ``bias``, each of three parts (reset r, update z, new n),
    ``h ← (1 - z) · tanh(i_n + σ(i_r + k_r) · k_n) + z · h`` where ``z = σ(i_z + k_z)``.

    Args:
        inputs: input part of the gates, its bias included.
        kernel, bias: state part of the gates.

    Returns:
        The state after each step.

    >>> gru(jnp.zeros((1, 2, 3)), jnp.zeros((1, 3)), jnp.array([0.0, 0.0, 9.0]))[0, :, 0].round(2).tolist()
    [0.5, 0.75]
    """

    def step(state: Array, gates: Array) -> tuple[Array, Array]:
        i_r, i_z, i_n = jnp.split(gates, 3, axis=-1)
        k_r, k_z, k_n = jnp.split(state @ kernel + bias, 3, axis=-1)
        z = jax.nn.sigmoid(i_z + k_z)
        state = (1 - z) * jnp.tanh(i_n + jax.nn.sigmoid(i_r + k_r) * k_n) + z * state
        return state, state

    start = jnp.zeros((inputs.shape[0], kernel.shape[0]), inputs.dtype)
    return jax.lax.scan(step, start, inputs.swapaxes(0, 1))[1].swapaxes(0, 1)


class ConvStage(nnx.Module):
    """``times`` 3×3 convolutions, each with a leaky ReLU (slope 0.2); then, if ``pool``, 2×2 max pooling."""

    blur: int | None = None

    def __init__(self, cin: int, cout: int, *, times: int = 2, pool: bool = True, rngs: nnx.Rngs):
        self.conv = nnx.List([conv(cout if i else cin, cout, 3, bias=True, rngs=rngs) for i in range(times)])
        self.pool = pool

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        for layer in self.conv:
            x = jax.nn.leaky_relu(layer(x), 0.2)
        return max_pool(antialias(x, self.blur), 2, 2) if self.pool else x


class FPR(Metric):
    """``score = 100 - Σ w_i · s_i / Σ w_i`` over the 64 × 64 patches of an image.

    The features of a patch give its opinion ``s_i = linear(linear(features_i))``. A GRU along the sequence of patches
    gives its weight ``w_i = relu(linear(gru_i)) + 1e-8``. So the score depends on the order of the patches.

    Protocol: the patches of an image in random order, at most 1024; no normalisation. The published weights give 0 to
    100, larger for *worse* images (differential mean opinion scores). ``score`` is 100 minus that value.
    Published weights: Apache-2.0 licence.

    Args:
        larger_is_worse: meaning of the raw output. False, for weights trained on mean opinion scores, returns the raw
            output unchanged.
        width: channels of the first stage, even.
        rngs: random numbers for the weights.

    **Differs from the paper**: only the no-reference path is built. Of a checkpoint's 16.6 million parameters, the
    8.9 million of the full-reference path and of training are dropped.

    >>> model, images = nnx.eval_shape(lambda: FPR(rngs=nnx.Rngs(0))), jnp.zeros((2, 128, 192, 3))
    >>> nnx.eval_shape(lambda model, images: model(images), model, images).shape
    (2,)
    """

    input_size = None
    published_range = (0.0, 100.0)
    recipe = RECIPE

    def __init__(self, *, larger_is_worse: bool = True, width: int = 128, rngs: nnx.Rngs):
        self.larger_is_worse = larger_is_worse
        self.backbone = Stages(
            {
                "sfl1": (ConvStage(3, width, rngs=rngs), width),
                "sfl21": (ConvStage(width, 2 * width, pool=False, rngs=rngs), 2 * width),
                "sfl22": (ConvStage(2 * width, 2 * width, rngs=rngs), 2 * width),
                "sfl23": (ConvStage(2 * width, 2 * width, pool=False, rngs=rngs), 2 * width),
                "sfl3": (ConvStage(2 * width, 4 * width, rngs=rngs), 4 * width),
                "scl1": (ConvStage(4 * width, width, times=1, rngs=rngs), width),
                "scl2": (conv(width, width // 2, 3, padding=0, bias=True, rngs=rngs), width // 2),
            }
        )
        features = 4 * (width // 2)  # the last map is 2 × 2 pixels
        self.opinion = nnx.List([nnx.Linear(features, 32, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)])
        self.gates = nnx.Linear(features, 96, rngs=rngs)
        self.recurrent = nnx.Linear(32, 96, rngs=rngs)
        self.weight = nnx.Linear(32, 1, rngs=rngs)
        self.keep(larger_is_worse=larger_is_worse, width=width)

    def __call__(self, images: Images, key: jax.Array | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] of at least 64 × 64; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: jax.Array | None = None) -> Float[Array, "b h2 64 c"]:
        """Return at most 1024 patches of each image, stacked vertically.

        Without ``key`` they have the order of `cut`; of more than 1024 patches, evenly spaced ones are kept. With
        ``key`` they are a random choice in random order, as in the official test, the same for all images of the batch.
        """
        patches = cut(images)
        n = patches.shape[1]
        kept = min(n, MOST)
        order = np.arange(kept) * n // kept if key is None else jax.random.permutation(key, n)[:kept]
        return patches[:, order].reshape(len(images), kept * SIDE, SIDE, -1)

    def raw(self, pixels: Images) -> Scores:
        """Return scores of RGB pixels in [0, 1]: whole images or stacked patches; `cut` orders both in the same way."""
        scored = self.features(pixels, ("opinions", "weights"))
        weights = jax.nn.relu(scored["weights"][..., 0]) + 1e-8
        raw = jnp.sum(weights * scored["opinions"].reshape(weights.shape), 1) / jnp.sum(weights, 1)
        return 100 - raw if self.larger_is_worse else raw

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps by name.

        Stages of the backbone, ``b·n h w c`` for n patches of an image; ``opinions`` (``b·n 1``), ``gru`` (``b n 32``)
        and ``weights`` before their ReLU (``b n 1``).
        """
        patches = cut(pixels)
        stages = [name for name in names if name not in ("opinions", "gru", "weights")]
        last = self.backbone.order[-1]
        wanted = stages if len(stages) == len(names) else [*stages, last]
        _, maps = self.backbone.run(patches.reshape(-1, *patches.shape[2:]), taps=wanted)
        found = {name: maps[name] for name in stages}
        if last in wanted:
            flat = maps[last].transpose(0, 3, 1, 2).reshape(len(maps[last]), -1)  # PyTorch's order: c h w
            found["opinions"] = self.opinion[1](self.opinion[0](flat))
            assert self.recurrent.bias is not None
            gates = self.gates(flat).reshape(*patches.shape[:2], -1)
            found["gru"] = gru(gates, self.recurrent.kernel[...], self.recurrent.bias[...])
            found["weights"] = self.weight(found["gru"])
        return {name: found[name] for name in names}


def _rules() -> tuple[key_map.Rule, ...]:
    """Names of the no-reference path contain "s"; the others belong to the pristine image or to training."""
    stage = r"(sfl\d+)\.conv([12])\.conv\.0"
    places = {
        **{stage.replace("[12]", str(i + 1)): rf"backbone.stage.\1.conv.{i}" for i in range(2)},
        r"scl1\.conv\.conv\.0": "backbone.stage.scl1.conv.0",
        "scl2": "backbone.stage.scl2",
    }
    rules = [rule for source, target in places.items() for rule in key_map.conv(source, target)]
    rules += [(rf"{source}\.bias", f"{target}.bias", key_map.same) for source, target in places.items()]
    rules += (*key_map.linear("srl1", "opinion.0"), *key_map.linear("srl2", "opinion.1"))
    rules += key_map.linear("swl2", "weight")
    for theirs, ours in (("ih", "gates"), ("hh", "recurrent")):
        rules.append((rf"swl1\.weight_{theirs}_l0", f"{ours}.kernel", key_map.linear_kernel))
        rules.append((rf"swl1\.bias_{theirs}_l0", f"{ours}.bias", key_map.same))
    unused = (r"fl[123]\..*", r"InvRescaleNet\..*", r"cl[12]\..*", r"rl[12]\..*", r"wl[12]\..*", r"gn\..*")
    return (*rules, *((pattern, None, key_map.same) for pattern in unused))


RULES = _rules()

_PAGE = "https://github.com/Baoliang93/FPR"
FPR_SPEC = ModelSpec(
    metric=FPR,
    rules=RULES,
    title="FPR",
    paper="doi:10.1109/TIP.2022.3205770",
    protocol="64x64 patches side by side, up to 1024, in shuffled order",
    results="none known for KonIQ-10k",
    licence="Apache-2.0",
    weights={name: WeightsUrl(url=None, page=_PAGE) for name in ("tid2013", "live", "csiq", "kadid", "siqad", "scid")},
)
