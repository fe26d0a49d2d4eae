"""The purification filter of the defense benchmark: three convolutions that reduce an attack, 11,459 numbers.

"Guardians of Image Quality: Benchmarking Defenses Against Adversarial Attacks on Image Quality Metrics",
arXiv:2408.01541.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from jaxiqa.core.types import Images
from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.networks.unet import instance_norm
from jaxiqa.nn.conv import conv
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl


class FCN(nnx.Module):
    """``tanh(conv₃(leaky(norm(conv₂(leaky(conv₁(x)))))))``, ``b h w 3 -> b h w 3`` in (−1, 1).

    3×3 convolutions from 3 to 64, 16 and 3 channels, a leaky slope of 0.2, an instance norm without scale and shift.

    >>> net = nnx.eval_shape(lambda: FCN(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net)))
    11459
    """

    def __init__(self, *, rngs: nnx.Rngs):
        widths = (3, 64, 16, 3)
        self.conv = nnx.List(conv(cin, cout, 3, bias=True, rngs=rngs) for cin, cout in pairwise(widths))

    def __call__(self, images: Images) -> Images:
        first, second, third = self.conv
        x = jax.nn.leaky_relu(first(images), 0.2)
        x = jax.nn.leaky_relu(instance_norm(second(x)), 0.2)
        return jnp.tanh(third(x))


SPEC = NetworkSpec(
    build=FCN,
    rules=tuple(rule for i in range(3) for rule in key_map.conv(f"conv{i + 1}", f"conv.{i}", bias=True)),
    title="FCN filter",
    paper="arXiv:2408.01541",
    licence="none stated",
    weights={"published": WeightsUrl(url=None, page="https://github.com/wianluna/adversarial_purification")},
    wrap=Network,
)
