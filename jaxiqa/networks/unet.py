"""FACPA's U-Net, the generator of pix2pix: from an image to a perturbation.

"Fast Adversarial CNN-based Perturbation Attack on No-Reference Image- and Video-Quality Metrics", arXiv:2305.15544;
"Image-to-Image Translation with Conditional Adversarial Networks", arXiv:1611.07004.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.types import Images
from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.networks.upsampling import UpConv, up_keys
from jaxiqa.nn.conv import conv
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

INIT = nnx.initializers.normal(0.02)


class UNet(nnx.Module):
    """``b h w 3 -> b h w 3`` in (−1, 1): ``depth`` halvings by 4×4 convolutions, as many doublings, and skips.

        down:  e₁ = conv(x),  e_k = norm(conv(leaky(e_{k−1}))),  the last one without norm
        up:    d₁ = norm(up(relu(e_depth))),  d_k = norm(up(relu([d_{k−1}, e_{depth−k+1}]))),  finally tanh(up(…))

    with a leaky slope of 0.2, and instance norms without scale and shift. Initial weights are normal with deviation
    0.02, as in pix2pix.

    Args:
        width: channels of the first level; the next ones have 2, 4 and then always 8 times as many.
        depth: levels, ≥ 2; sides are multiples of ``2 ** depth``.
        rngs: random numbers for the kernels.

    Raises:
        ValueError: a side is not such a multiple.

    >>> net = nnx.eval_shape(lambda: UNet(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net)))
    54409603

    **Differs from the paper's code** while training: no dropout.
    """

    def __init__(self, *, width: int = 64, depth: int = 8, rngs: nnx.Rngs):
        widths = [width * min(2**level, 8) for level in range(depth)]
        self.multiple = 2**depth
        self.down = nnx.List(
            conv(cin, cout, 4, stride=2, padding=1, bias=True, init=INIT, rngs=rngs)
            for cin, cout in zip([3, *widths], widths, strict=False)
        )
        ups = [*reversed(widths)]
        self.up = nnx.List(
            UpConv(cin if level == 0 else 2 * cin, cout, init=INIT, rngs=rngs)
            for level, (cin, cout) in enumerate(zip(ups, [*ups[1:], 3], strict=True))
        )

    def __call__(self, images: Images) -> Float[Array, "b h w 3"]:
        if any(side % self.multiple for side in images.shape[1:3]):
            height, width = images.shape[1:3]
            raise ValueError(f"images are {height}x{width}; both sides must be multiples of {self.multiple}")
        first, *middle, last = self.down
        skips = [first(images)]
        for down in middle:
            skips.append(instance_norm(down(_leaky(skips[-1]))))
        x = last(_leaky(skips[-1]))
        *ups, final = self.up
        for layer in ups:
            x = jnp.concatenate([instance_norm(layer(jax.nn.relu(x))), skips.pop()], -1)
        return jnp.tanh(final(jax.nn.relu(x)))


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.2)


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Normalise every channel of every image to mean 0 and variance 1.

    >>> instance_norm(jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)).round(3).ravel().tolist()
    [-1.0, 1.0]
    """
    x = x - jnp.mean(x, (1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, (1, 2), keepdims=True) + 1e-5)


SPEC = NetworkSpec(
    build=UNet,
    rules=tuple(
        rule
        for level in range(8)
        for rule in (
            *key_map.conv(f"conv{level + 1}", f"down.{level}", bias=True),
            *up_keys(f"dconv{level + 1}", f"up.{level}"),
        )
    ),
    title="FACPA's U-Net",
    paper="arXiv:2305.15544",
    licence="none stated",
    weights={"published": WeightsUrl(url=None, page="https://github.com/katiashh/FACPA")},
    wrap=Network,
)
