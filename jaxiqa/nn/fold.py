"""Fold each batch norm into the layer before it: with running statistics both are affine, so one affine map does."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxiqa.layers.materialize import children, replace
from jaxiqa.nn.heads import PooledLinear

Module = TypeVar("Module", bound=nnx.Module)


class Identity(nnx.Module):
    """Placeholder for a removed batch norm."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x


FOLDED = (nnx.Conv, nnx.Linear, PooledLinear, nnx.BatchNorm)
"""Classes that are affine in evaluation mode. Their subclasses may not be, for example if they normalise the kernel."""


def fold_batch_norm(model: Module, size: tuple[int, int] = (384, 384)) -> Module:
    """Copy a metric in evaluation mode, with batch norms folded into the convolutions and linear maps before them.

    ``scale · (W x + b - mean) / sqrt(var + ε) + bias`` becomes ``W' x + b'``, the same score up to rounding. A batch
    norm stays if something lies between the two, such as a ReLU; if the layer's output, or a parameter of either, is
    also used elsewhere; if it normalises along another axis than the last; or if the layer is a subclass, which may do
    more than multiply by its kernel.

    A parameter that two layers share becomes two parameters: the other layer keeps its kernel.

    Args:
        model: the metric; it is not changed. The copy is for scoring and attacks: it has lost its training parameters,
            so it cannot be saved or fine-tuned.
        size: (height, width) of the images for tracing: any size the metric accepts; the result does not depend on it.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> folded = fold_batch_norm(model)
    >>> [sum(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(net)) for net in (model, folded)]
    [26, 0]
    """
    copy = nnx.clone(model)
    copy.eval()
    identity: dict[int, Identity] = {}
    for layer, norm in followed_by_norm(copy, size):
        absorb(layer, norm)
        identity[id(norm)] = Identity()
    for _, parent in list(nnx.iter_modules(copy)):
        for key, child in children(parent):
            if id(child) in identity:
                replace(parent, key, identity[id(child)])
    return copy


def followed_by_norm(model: nnx.Module, size: tuple[int, int]) -> list[tuple[Any, nnx.BatchNorm]]:
    """Return the layers that a batch norm follows, such that both could be one layer, and these batch norms.

    Args:
        model: in evaluation mode; it is unchanged.
        size: as for `fold_batch_norm`.
    """
    places = [
        (parent, key, child)
        for _, parent in nnx.iter_modules(model)
        for key, child in children(parent)
        if type(child) in FOLDED
    ]
    layers: list[Any] = list({id(layer): layer for *_, layer in places}.values())  # one may be used in several places
    marked = {id(layer): _Marked(layer, i) for i, layer in enumerate(layers)}
    for parent, key, layer in places:
        replace(parent, key, marked[id(layer)])
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program = jax.make_jaxpr(lambda x: model(x))(image)
    for parent, key, layer in places:
        replace(parent, key, layer)
    found = pairs(program.jaxpr, [isinstance(layer, nnx.BatchNorm) for layer in layers])
    return [
        (layers[i], layers[j]) for i, j in found if not (marked[id(layers[i])].stays or marked[id(layers[j])].stays)
    ]


def absorb(layer: nnx.Conv | nnx.Linear, norm: nnx.BatchNorm) -> None:
    """Change ``layer`` in place so that it computes ``norm(layer(x))``."""

    def read(variable: nnx.Variable | None, default: float) -> np.ndarray:
        return np.asarray(default if variable is None else variable[...], np.float64)

    factor = read(norm.scale, 1.0) / np.sqrt(read(norm.var, 1.0) + norm.epsilon)
    bias = read(layer.bias, 0.0) * factor + read(norm.bias, 0.0) - read(norm.mean, 0.0) * factor
    # A new variable: another layer may share the old one.
    layer.kernel = nnx.Param(jnp.asarray(read(layer.kernel, 1.0) * factor, layer.kernel.dtype))
    layer.bias = nnx.Param(jnp.asarray(bias, layer.kernel.dtype))
    layer.use_bias = True


# How the pairs are found: in one abstract run every layer marks its output, and every batch norm marks its input.
# A mark is an operation without effect. So the traced program shows what is read where, however the model is written.
MARK = "jaxiqa.fold."


class _Marked:
    """Replace a layer during the abstract run, and record what forbids folding it."""

    def __init__(self, layer: nnx.Module, position: int):
        self._layer, self._mark = layer, f"{MARK}{position}"
        self.stays = False

    def __call__(self, x: Any, **options: Any) -> Any:
        if isinstance(self._layer, nnx.BatchNorm):
            self.stays |= self._layer.axis not in (-1, x.ndim - 1)
            return self._layer(checkpoint_name(x, self._mark), **options)
        return checkpoint_name(self._layer(x, **options), self._mark)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._layer, name)
        self.stays |= isinstance(found, nnx.Variable)
        return found


def pairs(program: Any, norms: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the marks (layer, batch norm) where nothing else reads the layer and the norm reads nothing else.

    Args:
        program: a jaxpr with marks.
        norms: for each mark, whether it belongs to a batch norm.
    """
    links: set[tuple[int | None, int | None]] = set()  # (read layer, reading norm); None: anything else
    for jaxpr in _nested(program):
        outputs: dict[int, int] = {}
        for equation in jaxpr.eqns:
            mark = _mark(equation)
            norm = mark if mark is not None and norms[mark] else None
            links |= {(outputs.get(id(variable)), norm) for variable in equation.invars}
            if mark is not None and norm is None:
                outputs[id(equation.outvars[0])] = mark
        links |= {(outputs.get(id(variable)), None) for variable in jaxpr.outvars}
    readers, sources = Counter(layer for layer, _ in links), Counter(norm for _, norm in links)
    return sorted((i, j) for i, j in links if i is not None and j is not None and readers[i] == sources[j] == 1)


def _mark(equation: Any) -> int | None:
    name = equation.params.get("name", "") if equation.primitive.name == "name" else ""
    return int(name.removeprefix(MARK)) if name.startswith(MARK) else None


def _nested(jaxpr: Any) -> Iterator[Any]:
    """Yield a program and all programs in it."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(value, "eqns"):
                yield from _nested(getattr(value, "jaxpr", value))
