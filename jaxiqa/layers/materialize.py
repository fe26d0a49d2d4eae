"""Compute every orthogonal map of a network once: for scoring and attacks, or as the parameters of a training."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxiqa.layers.direct import DirectConv, DirectDense
from jaxiqa.layers.orthogonal_conv import MaterializedConv, OrthogonalConv
from jaxiqa.layers.orthogonal_dense import MaterializedDense, OrthogonalDense


def materialize(layer: nnx.Module, size: tuple[int, int], *, channels: int | None = None) -> Any:
    """Copy a layer, a block or a whole model with its orthogonal maps computed for inputs of one size.

    The copy has the matrices *instead of* the parameters, so the two cannot disagree: it is the original at this
    moment. An input of another size raises an error that names both sizes.

    Args:
        layer: any module; it is not changed. Parts other than `OrthogonalConv` and `OrthogonalDense` are copied.
        size: (height, width) of the input; for a metric, of the images.
        channels: of the input; by default the layer's ``cin``, or 3.

    Returns:
        A module that computes the same. Memory: 8·h·(w//2 + 1)·c²/groups bytes for each orthogonal convolution.

    >>> from jaxiqa.layers import RobustBlock
    >>> block, x = RobustBlock(8, 4, rngs=nnx.Rngs(0)), jnp.ones((1, 5, 7, 8))
    >>> fast = materialize(block, (5, 7), channels=8)
    >>> bool(jnp.allclose(fast(x), block(x), atol=1e-6))
    True
    """
    return _rebuilt(layer, size, channels, MaterializedConv, MaterializedDense)


def to_direct(layer: nnx.Module, size: tuple[int, int], *, channels: int | None = None) -> Any:
    """Copy a layer, a block or a whole model with its orthogonal maps as parameters (`jaxiqa.layers.direct`).

    The copy computes the same, for inputs of this size, and is trained with `jaxiqa.train.manifold.on_manifold`:
    no step computes an exponential or a Cayley transform.

    Args:
        layer: any module; it is not changed. Parts other than `OrthogonalConv` and `OrthogonalDense` are copied.
        size: (height, width) of the input; for a metric, of the images.
        channels: of the input; by default the layer's ``cin``, or 3.

    Raises:
        ValueError: a layer gets maps of two sizes, or is a reflection.

    >>> from jaxiqa.layers import RobustBlock
    >>> block, x = RobustBlock(8, 4, rngs=nnx.Rngs(0)), jnp.ones((1, 5, 7, 8))
    >>> bool(jnp.allclose(to_direct(block, (5, 7), channels=8)(x), block(x), atol=1e-6))
    True
    """
    return _rebuilt(layer, size, channels, DirectConv, DirectDense.of)


def _rebuilt(layer, size, channels, convolution, dense):
    if isinstance(layer, OrthogonalConv):
        return convolution(layer, size)
    if isinstance(layer, OrthogonalDense):
        return dense(layer)
    channels = getattr(layer, "cin", 3) if channels is None else channels
    image = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    copy = nnx.clone(layer)
    places = [
        (parent, key, child)
        for _, parent in nnx.iter_modules(copy)
        for key, child in children(parent)
        if isinstance(child, OrthogonalConv | OrthogonalDense) and not isinstance(parent, OrthogonalConv)
    ]
    sizes: dict[int, tuple[int, int]] = {}
    for index, (parent, key, child) in enumerate(places):
        replace(parent, key, _Watched(child, index, sizes))
    jax.eval_shape(lambda x: copy(x), image)
    for index, (parent, key, child) in enumerate(places):
        replace(parent, key, _rebuilt(child, sizes[index], None, convolution, dense) if index in sizes else child)
    return copy


class _Watched:
    """Replaces a layer during one abstract run and records the size of its input."""

    def __init__(self, layer: nnx.Module, index: int, sizes: dict[int, tuple[int, int]]):
        self.layer, self.index, self.sizes = layer, index, sizes

    def __call__(self, x: Any, **options: Any) -> Any:
        size = x.shape[1:3] if x.ndim == 4 else (1, 1)
        if self.sizes.setdefault(self.index, size) != size:
            raise ValueError(
                f"one orthogonal layer gets maps of {self.sizes[self.index]} and {size}: one size is needed"
            )
        return self.layer(x, **options)


def children(parent: nnx.Module) -> list[tuple[int | str, nnx.Module]]:
    """Return the modules directly in ``parent``: (index or attribute, module)."""
    items = enumerate(parent) if isinstance(parent, nnx.List) else list(vars(parent).items())
    return [(key, child) for key, child in items if isinstance(child, nnx.Module)]


def replace(parent: Any, key: int | str, child: Any) -> None:
    """Replace the module ``key`` of ``parent``, a key of `children`, by ``child``."""
    if isinstance(key, str):
        setattr(parent, key, child)
    else:
        parent[key] = child
