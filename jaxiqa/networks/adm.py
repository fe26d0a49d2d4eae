"""ADM's U-Net (guided diffusion): the noise in an image, at any step of a diffusion.

"Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.nn.conv import conv
from jaxiqa.nn.transformer import attention
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

Map = Float[Array, "_ _ _ _"]
Embedding = Float[Array, "_ _"]


def embed_time(t: Float[Array, " b"], features: int) -> Embedding:
    """Return ``[cos(t f), sin(t f)]`` for ``features / 2`` frequencies f from 1 to almost 1e-4, geometrically spaced.

    >>> embed_time(jnp.zeros(1), 4).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """
    half = features // 2
    angles = t[:, None] * jnp.exp(-math.log(10_000) / half * jnp.arange(half, dtype=t.dtype))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(width, num_groups=32, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


class ResBlock(nnx.Module):
    """``skip(x) + conv(silu(norm(h) · (1 + scale) + shift))``, h = conv(silu(norm(x))), scale and shift from the step.

    ``resize`` is -1 (halves the sides), 0, or 1 (doubles them); it applies to x and to the first convolution's input.
    """

    def __init__(self, cin: int, cout: int, embedding: int, *, resize: int = 0, rngs: nnx.Rngs):
        self.resize = resize
        self.norm_in, self.norm_out = _norm(cin, rngs), _norm(cout, rngs)
        self.conv_in, self.conv_out = (
            conv(cin, cout, 3, bias=True, rngs=rngs),
            conv(cout, cout, 3, bias=True, rngs=rngs),
        )
        self.embedding = nnx.Linear(embedding, 2 * cout, rngs=rngs)
        self.skip = conv(cin, cout, 1, bias=True, rngs=rngs) if cin != cout else None

    def __call__(self, x: Map, embedding: Embedding) -> Map:
        h = self.conv_in(_resized(jax.nn.silu(self.norm_in(x)), self.resize))
        scale, shift = jnp.split(self.embedding(jax.nn.silu(embedding))[:, None, None], 2, -1)
        h = self.conv_out(jax.nn.silu(self.norm_out(h) * (1 + scale) + shift))
        x = _resized(x, self.resize)
        return h + (x if self.skip is None else self.skip(x))


class Attention(nnx.Module):
    """Compute ``x + proj(attention(qkv(norm(x))))`` over all pixels, in heads of ``head`` channels."""

    def __init__(self, width: int, head: int, *, rngs: nnx.Rngs):
        self.head = head
        self.norm = _norm(width, rngs)
        self.qkv, self.proj = nnx.Linear(width, 3 * width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Map) -> Map:
        b, h, w, c = x.shape
        tokens = self.qkv(self.norm(x)).reshape(b, h * w, c // self.head, 3, self.head)
        q, k, v = tokens.transpose(3, 0, 2, 1, 4)
        mixed = attention(q / math.sqrt(self.head), k, v).swapaxes(1, 2)
        return x + self.proj(mixed.reshape(b, h, w, c))


class Level(nnx.Module):
    """A residual block, then optional attention, then an optional block that resizes."""

    def __init__(self, cin: int, cout: int, embedding: int, *, resize: int, head: int | None, up: bool, rngs: nnx.Rngs):
        self.res = ResBlock(cin, cout, embedding, resize=resize, rngs=rngs)
        self.attention = Attention(cout, head, rngs=rngs) if head else None
        self.up = ResBlock(cout, cout, embedding, resize=1, rngs=rngs) if up else None

    def __call__(self, x: Map, embedding: Embedding) -> Map:
        x = self.res(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.up is None else self.up(x, embedding)


class ADM(nnx.Module):
    """``(x b h w 3 in [-1, 1], t b) -> b h w 6``: the noise in x, and the position of the reverse step's variance.

    A U-Net of residual blocks that all get the step t (0 to 999, a float), with attention on some levels and in the
    middle. The defaults are the unconditional network for 256×256 images of ImageNet (552.8 million numbers).

    Args:
        width: channels of the first level; a multiple of 32, like those of all other levels.
        growth: channels of each level divided by ``width``.
        depth: residual blocks on each level of the encoder.
        attended: levels with attention, from 0.
        head: channels of an attention head. A checkpoint does not contain this number.
        rngs: random numbers for the weights.

    Raises:
        ValueError: a side is not a multiple of 2 to the number of halvings.

    >>> net = nnx.eval_shape(lambda: ADM(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net)))
    552814086
    """

    def __init__(
        self,
        *,
        width: int = 256,
        growth: Sequence[int] = (1, 1, 2, 2, 4, 4),
        depth: int = 2,
        attended: Sequence[int] = (3, 4, 5),
        head: int = 64,
        rngs: nnx.Rngs,
    ):
        self.width, self.multiple = width, 2 ** (len(growth) - 1)
        embedding = 4 * width
        self.time = nnx.List([nnx.Linear(width, embedding, rngs=rngs), nnx.Linear(embedding, embedding, rngs=rngs)])
        self.first = conv(3, width, 3, bias=True, rngs=rngs)
        down, skips, cin = [], [width], width
        for level, factor in enumerate(growth):
            for _ in range(depth):
                heads = head if level in attended else None
                down.append(Level(cin, factor * width, embedding, resize=0, head=heads, up=False, rngs=rngs))
                cin = factor * width
                skips.append(cin)
            if level < len(growth) - 1:
                down.append(Level(cin, cin, embedding, resize=-1, head=None, up=False, rngs=rngs))
                skips.append(cin)
        self.down = nnx.List(down)
        self.middle_in, self.middle_out = (ResBlock(cin, cin, embedding, rngs=rngs) for _ in range(2))
        self.middle = Attention(cin, head, rngs=rngs)
        up = []
        for level, factor in reversed(list(enumerate(growth))):
            for i in range(depth + 1):
                heads = head if level in attended else None
                grown = bool(level and i == depth)
                block = Level(cin + skips.pop(), factor * width, embedding, resize=0, head=heads, up=grown, rngs=rngs)
                up.append(block)
                cin = factor * width
        self.up = nnx.List(up)
        self.norm, self.last = _norm(cin, rngs), conv(cin, 6, 3, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"], t: Float[Array, " b"]) -> Float[Array, "b h w 6"]:
        if any(side % self.multiple for side in x.shape[1:3]):
            raise ValueError(f"x is {x.shape[1]}x{x.shape[2]}; both sides must be multiples of {self.multiple}")
        first, second = self.time
        embedding = second(jax.nn.silu(first(embed_time(t, self.width))))
        skips = [self.first(x)]
        for level in self.down:
            skips.append(level(skips[-1], embedding))
        x = self.middle_out(self.middle(self.middle_in(skips[-1], embedding)), embedding)
        for level in self.up:
            x = level(jnp.concatenate([x, skips.pop()], -1), embedding)
        return self.last(jax.nn.silu(self.norm(x)))


def _resized(x: Map, resize: int) -> Map:
    """Return means of 2×2 pixels, the same map, or every pixel four times."""
    if resize < 0:
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return x.repeat(2, 1).repeat(2, 2) if resize else x


def _flat(array: np.ndarray) -> np.ndarray:
    """Convert a convolution along one axis, ``out in 1`` -> ``in out``."""
    return array[..., 0].T if array.shape[2:] == (1,) else array


def _res_keys(source: str, target: str) -> tuple[key_map.Rule, ...]:
    return (
        *key_map.layer_norm(rf"{source}\.in_layers\.0", f"{target}.norm_in"),
        *key_map.conv(rf"{source}\.in_layers\.2", f"{target}.conv_in", bias=True),
        *key_map.linear(rf"{source}\.emb_layers\.1", f"{target}.embedding"),
        *key_map.layer_norm(rf"{source}\.out_layers\.0", f"{target}.norm_out"),
        *key_map.conv(rf"{source}\.out_layers\.3", f"{target}.conv_out", bias=True),
        *key_map.conv(rf"{source}\.skip_connection", f"{target}.skip", bias=True),
    )


def _attention_keys(source: str, target: str) -> tuple[key_map.Rule, ...]:
    rules = [*key_map.layer_norm(rf"{source}\.norm", f"{target}.norm")]
    for theirs, ours in (("qkv", "qkv"), ("proj_out", "proj")):
        rules += [(rf"{source}\.{theirs}\.weight", f"{target}.{ours}.kernel", _flat)]
        rules += [(rf"{source}\.{theirs}\.bias", f"{target}.{ours}.bias", key_map.same)]
    return tuple(rules)


def _level_keys() -> tuple[key_map.Rule, ...]:
    """Return rules for the levels; the original's first input block is the first convolution, so ours is one less."""
    rules: list[key_map.Rule] = []
    for block in range(1, 64):
        rules += _res_keys(rf"input_blocks\.{block}\.0", f"down.{block - 1}.res")
        rules += _attention_keys(rf"input_blocks\.{block}\.1", f"down.{block - 1}.attention")
    rules += _res_keys(r"output_blocks\.(\d+)\.0", r"up.\1.res")
    rules += _attention_keys(r"output_blocks\.(\d+)\.1", r"up.\1.attention")
    return (*rules, *_res_keys(r"output_blocks\.(\d+)\.[12]", r"up.\1.up"))


def _options(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return sizes and levels, read from the decoder: its blocks that resize end the levels."""
    outputs = [
        array.shape[0]
        for i in range(64)
        if (array := arrays.get(f"output_blocks.{i}.0.in_layers.2.weight")) is not None
    ]
    first = arrays.get("input_blocks.0.0.weight")
    if first is None or not outputs:
        return {}  # the error of `fill` then lists what is missing
    pattern = re.compile(r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight")
    ends = sorted(int(match[1]) for key in arrays if (match := pattern.fullmatch(key)))
    size = ends[0] + 1 if ends else len(outputs)  # blocks per decoder level
    levels = [range(start, start + size) for start in range(0, len(outputs), size)][::-1]
    return {
        "width": first.shape[0],
        "growth": tuple(outputs[level[0]] // first.shape[0] for level in levels),
        "depth": size - 1,
        "attended": tuple(i for i, level in enumerate(levels) if f"output_blocks.{level[0]}.1.qkv.weight" in arrays),
    }


SPEC = NetworkSpec(
    build=ADM,
    rules=(
        *key_map.linear(r"time_embed\.0", "time.0"),
        *key_map.linear(r"time_embed\.2", "time.1"),
        *key_map.conv(r"input_blocks\.0\.0", "first", bias=True),
        *_level_keys(),
        *_res_keys(r"middle_block\.0", "middle_in"),
        *_attention_keys(r"middle_block\.1", "middle"),
        *_res_keys(r"middle_block\.2", "middle_out"),
        *key_map.layer_norm(r"out\.0", "norm"),
        *key_map.conv(r"out\.2", "last", bias=True),
    ),
    title="ADM, 256×256, unconditional",
    paper="arXiv:2105.05233",
    licence="MIT",
    weights={
        "256x256_uncond": WeightsUrl(
            url="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
            page="https://github.com/openai/guided-diffusion",
        )
    },
    wrap=Network,
    options=_options,
)
