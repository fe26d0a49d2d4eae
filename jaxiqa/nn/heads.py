"""The published ImageNet classifiers: from the last stage's feature map to logits."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.conv import LINEAR, conv


class PooledLinear(nnx.Linear):
    """Compute ``Linear(mean over pixels of x)``, as in ResNets and MobileNets."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:  # type: ignore[override]  # maps only
        return super().__call__(jnp.mean(x, (1, 2)))


class Perceptron(nnx.Module):
    """Compute ``linear3(relu(linear2(relu(linear1(x pooled to side × side pixels)))))``, as in AlexNet and VGG.

    Args:
        features: channels of the map.
        classes: number of logits.
        side: height and width of the pooled map, see `adaptive_average_pool`.
        hidden: outputs of the first two linear maps.
        rngs: random numbers for the weights.

    **Differs from the paper** at training only: no dropout.
    """

    def __init__(self, features: int, classes: int, *, side: int, hidden: int = 4096, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(features * side**2, hidden, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, hidden, rngs=rngs)
        self.linear3 = nnx.Linear(hidden, classes, rngs=rngs)
        self.side = side

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = adaptive_average_pool(x, (self.side, self.side))
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # the published matrices have the order c h w
        return self.linear3(jax.nn.relu(self.linear2(jax.nn.relu(self.linear1(x)))))


class PooledConv(nnx.Module):
    """Compute ``mean over pixels of relu(conv1x1(x))``, as in SqueezeNet."""

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs):
        self.conv = conv(features, classes, 1, bias=True, init=LINEAR, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        return jnp.mean(jax.nn.relu(self.conv(x)), (1, 2))


def adaptive_average_pool(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Average over ``size`` windows that cover the map evenly: window i of n over a side s is ⌊is/n⌋ … ⌈(i+1)s/n⌉ − 1.

    Windows overlap if n does not divide s, and repeat pixels if s < n.

    >>> adaptive_average_pool(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 2))[0, 0, :, 0].tolist()
    [1.0, 3.0]
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = (_windows(side, n) for side, n in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def _windows(side: int, count: int) -> np.ndarray:
    start = np.arange(count) * side // count
    end = -(-np.arange(1, count + 1) * side // count)
    covered = (np.arange(side) >= start[:, None]) & (np.arange(side) < end[:, None])
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)
