"""Batch norm folded into the layer before it: with running statistics it is an affine map, and two of those are one."""

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

Module = TypeVar("Module", bound=nnx.Module)


class Identity(nnx.Module):
    """Stands where a batch norm was."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x


def fold_batch_norm(model: Module, size: tuple[int, int] = (384, 384)) -> Module:
    """A copy of a metric in evaluation mode, its batch norms folded into the convolutions and linear maps before them.

    ``scale · (W x + b - mean) / sqrt(var + ε) + bias`` becomes ``W' x + b'``, the same score up to rounding. A batch
    norm stays where something lies between the two, such as a ReLU, or where the layer's output is read elsewhere too.

    Args:
        model: the metric; left as it was. The copy is for scoring and attacks: what it was trained as is lost, so it
            cannot be saved or fine-tuned.
        size: (height, width) of the images to trace it with: any that it takes; the result does not depend on it.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> folded = fold_batch_norm(model)
    >>> [sum(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(net)) for net in (model, folded)]
    [26, 0]
    """
    copy = nnx.clone(model)
    copy.eval()
    layers = [
        (parent, key, child)
        for _, parent in nnx.iter_modules(copy)
        for key, child in children(parent)
        if isinstance(child, nnx.Conv | nnx.Linear | nnx.BatchNorm)
    ]
    for i, (parent, key, layer) in enumerate(layers):
        replace(parent, key, _Marked(layer, i))
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program = jax.make_jaxpr(lambda x: copy(x))(image)
    for parent, key, layer in layers:
        replace(parent, key, layer)
    for i, j in pairs(program.jaxpr, [isinstance(layer, nnx.BatchNorm) for *_, layer in layers]):
        parent, key, norm = layers[j]
        absorb(layers[i][2], norm)
        replace(parent, key, Identity())
    return copy


def absorb(layer: nnx.Conv | nnx.Linear, norm: nnx.BatchNorm) -> None:
    """Make ``layer`` compute ``norm(layer(x))``, in place."""

    def read(variable: nnx.Variable | None, default: float) -> np.ndarray:
        return np.asarray(default if variable is None else variable[...], np.float64)

    factor = read(norm.scale, 1.0) / np.sqrt(read(norm.var, 1.0) + norm.epsilon)
    bias = read(layer.bias, 0.0) * factor + read(norm.bias, 0.0) - read(norm.mean, 0.0) * factor
    layer.kernel.set_value(jnp.asarray(read(layer.kernel, 1.0) * factor, layer.kernel.dtype))
    layer.bias = nnx.Param(jnp.asarray(bias, layer.kernel.dtype))
    layer.use_bias = True


# How the pairs are found: in one abstract run every layer puts a mark on its output, and every batch norm on its input.
# A mark is an operation that does nothing, so the traced program says who reads what, however the model is written.
MARK = "jaxiqa.fold."


class _Marked:
    """Stands in for a layer during the abstract run."""

    def __init__(self, layer: nnx.Module, position: int):
        self._layer, self._mark = layer, f"{MARK}{position}"

    def __call__(self, x: Any, **options: Any) -> Any:
        if isinstance(self._layer, nnx.BatchNorm):
            return self._layer(checkpoint_name(x, self._mark), **options)
        return checkpoint_name(self._layer(x, **options), self._mark)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def pairs(program: Any, norms: Sequence[bool]) -> list[tuple[int, int]]:
    """(layer, batch norm) by their marks, where nothing else reads the layer and the norm reads nothing else.

    Args:
        program: a jaxpr with marks.
        norms: whether the mark of that number belongs to a batch norm.
    """
    links: set[tuple[int | None, int | None]] = set()  # (a layer or something else) is read by (a norm or ...)
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
    return sorted((i, j) for i, j in links if None not in (i, j) and readers[i] == sources[j] == 1)


def _mark(equation: Any) -> int | None:
    name = equation.params.get("name", "") if equation.primitive.name == "name" else ""
    return int(name.removeprefix(MARK)) if name.startswith(MARK) else None


def _nested(jaxpr: Any) -> Iterator[Any]:
    """A program and all the programs in it."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(value, "eqns"):
                yield from _nested(getattr(value, "jaxpr", value))
