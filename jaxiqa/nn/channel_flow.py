"""Follow the channels of maps through a metric: where each goes, and which ones do not depend on the image.

In one abstract run every convolution and batch norm stands for itself as one operation. Between them, elementwise
operations, maxima over windows, concatenations and sums of maps keep channels apart; every other operation, and the end
of a stage of a backbone, needs its maps whole.

A filter of zeros gives a channel that is its bias everywhere, and after a batch norm and an activation another number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive
from jaxtyping import Array

from jaxiqa.layers.materialize import replace
from jaxiqa.nn.channels import Channels, Numbers
from jaxiqa.nn.filters import bias_of, is_depthwise, is_unpadded, layers_of, normalised, zero_filters
from jaxiqa.nn.stages import Stages

LAYER, WHOLE = Primitive("jaxiqa_layer"), Primitive("jaxiqa_whole")
LAYER.def_abstract_eval(lambda x, *, place, shape, dtype: jax.core.ShapedArray(shape, dtype))
WHOLE.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))

CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
ELEMENTWISE = {
    *("abs", "add", "and", "clamp", "convert_element_type", "copy", "div", "eq", "erf", "exp", "expm1", "ge", "gt"),
    *("integer_pow", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name", "ne", "neg", "not", "or"),
    *("pow", "rsqrt", "select_n", "sign", "sqrt", "square", "sub", "tanh"),
}
"""Operations on single numbers, of the activations in use."""


class Flow:
    """What `trace` found. All other fields are by the position of a layer in ``layers``.

    Attributes:
        layers: convolutions and batch norms.
        numbers: of the channels.
        inputs: what each convolution reads.
        outputs: the numbers of the channels that each layer gives.
        split: depthwise convolutions whose input must stay whole, so that their output has its own numbers.
        fixed: layers that must not be changed.
        pairs: convolution -> the batch norm that alone reads it, and reads nothing else.
    """

    def __init__(self, layers: Sequence[Any]):
        self.layers, self.numbers = layers, Numbers()
        self.inputs: dict[int, Channels] = {}
        self.outputs: dict[int, np.ndarray] = {}
        self.split: set[int] = set()
        self.fixed: set[int] = set()
        self.pairs: dict[int, int] = {}
        self._links: set[tuple[int | None, int | None]] = set()

    def walk(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Follow a program; maps are `Channels`, single numbers are NumPy scalars, all else is None."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_scalar, consts), strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))
        made: dict[Any, int] = {}

        def read(atom: Any) -> Any:
            return _scalar(atom.val) if hasattr(atom, "val") else known.get(atom)

        for equation in jaxpr.eqns:
            place = equation.params["place"] if equation.primitive is LAYER else None
            norm = place if place is not None and isinstance(self.layers[place], nnx.BatchNorm) else None
            self._links |= {(made.get(atom), norm) for atom in equation.invars if not hasattr(atom, "val")}
            results = self._follow(equation, [read(atom) for atom in equation.invars])
            known |= dict(zip(equation.outvars, results, strict=True))
            if place is not None and norm is None:
                made[equation.outvars[0]] = place
        self._links |= {(made.get(atom), None) for atom in jaxpr.outvars if not hasattr(atom, "val")}
        return [read(atom) for atom in jaxpr.outvars]

    def _follow(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if equation.primitive is LAYER:
            return [self._layer(params["place"], given[0])]
        if name in CALLS:
            inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            return self.walk(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        if name == "optimization_barrier":
            return given
        if name == "broadcast_in_dim" and np.ndim(given[0]) == 0 and isinstance(given[0], np.generic):
            return [given[0]]  # the same number everywhere
        if name in ELEMENTWISE:
            return [self._elementwise(equation, given)]
        if name == "concatenate" and params["dimension"] == len(equation.outvars[0].aval.shape) - 1:
            return [self._joined(equation, given)]
        if name == "reduce_window_max" and isinstance(given[0], Channels) and _keeps_constants(params):
            return [given[0]]
        self.numbers.pin(*given)
        for inner in _programs(equation):
            jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            self.numbers.pin(*self.walk(jaxpr, consts, [None] * len(jaxpr.invars)))
        return [None] * len(equation.outvars)

    def _elementwise(self, equation: Any, given: list[Any]) -> Any:
        maps = [x for x in given if isinstance(x, Channels)]
        out = equation.outvars[0].aval
        atoms = zip(given, equation.invars, strict=True)
        if any(x is None or (isinstance(x, Channels) and atom.aval.shape != out.shape) for x, atom in atoms):
            self.numbers.pin(*maps)
            return None
        count = len(maps[0].ids) if maps else 1
        operands = [
            jnp.broadcast_to(jnp.asarray(x.values if isinstance(x, Channels) else x, atom.aval.dtype), (count,))
            for x, atom in zip(given, equation.invars, strict=True)
        ]
        values = np.asarray(equation.primitive.bind(*operands, **equation.params))
        if not maps:
            return values[0]
        for other in maps[1:]:
            self.numbers.join(maps[0].ids, other.ids)
        return Channels(maps[0].ids, np.all([x.known for x in maps], axis=0), values)

    def _joined(self, equation: Any, given: list[Any]) -> Any:
        if not any(isinstance(x, Channels) for x in given):
            return None
        parts = [
            x if isinstance(x, Channels) else self._whole(atom.aval.shape[-1])
            for x, atom in zip(given, equation.invars, strict=True)
        ]
        joined = [np.concatenate([getattr(part, field) for part in parts]) for field in ("ids", "known", "values")]
        return Channels(*joined)

    def _whole(self, count: int) -> Channels:
        found = Channels.unknown(self.numbers.fresh(count))
        self.numbers.pin(found)
        return found

    def _layer(self, place: int, x: Any) -> Any:
        layer = self.layers[place]
        if isinstance(layer, nnx.BatchNorm):
            x = x if isinstance(x, Channels) else self._whole(layer.num_features)
            self.numbers.join(self.outputs.setdefault(place, x.ids), x.ids)
            return Channels(x.ids, x.known, normalised(layer, x.values))
        x = x if isinstance(x, Channels) else self._whole(layer.in_features)
        if earlier := self.inputs.get(place):  # a layer in several places
            self.numbers.join(earlier.ids, x.ids)
            x = Channels(x.ids, x.known & earlier.known & (x.values == earlier.values), x.values)
        self.inputs[place] = x
        zero, bias = zero_filters(layer), bias_of(layer)
        if not is_depthwise(layer):
            if place not in self.outputs:
                self.outputs[place] = self.numbers.fresh(layer.out_features)
            found = Channels(self.outputs[place], zero, bias)
            if layer.feature_group_count > 1:
                self.numbers.pin(x, found)
            return found
        if place not in self.outputs and any(map(self.numbers.is_pinned, map(int, x.ids))):
            self.split.add(place)
        if place in self.split:
            self.numbers.pin(x)
        ids = self.outputs.setdefault(place, self.numbers.fresh(layer.out_features) if place in self.split else x.ids)
        if place not in self.split:
            self.numbers.join(ids, x.ids)
        weights = np.asarray(layer.kernel[...], np.float64).sum((0, 1, 2))
        known = zero | (x.known & (is_unpadded(layer) | (x.values == 0)))
        return Channels(ids, known, (np.where(zero, 0, weights * x.values) + bias).astype(np.float32))

    def finish(self) -> None:
        """Pin what the fixed layers read and give, and find `pairs`."""
        for place in self.fixed:
            if place in self.inputs:
                self.numbers.pin(self.inputs[place])
            if place in self.outputs:
                self.numbers.pin(Channels.unknown(self.outputs[place]))
        readers: dict[int | None, set] = {}
        sources: dict[int | None, set] = {}
        for layer, norm in self._links:
            readers.setdefault(layer, set()).add(norm)
            sources.setdefault(norm, set()).add(layer)
        self.pairs = {
            layer: norm
            for layer, norm in self._links
            if layer is not None and norm is not None and len(readers[layer]) == len(sources[norm]) == 1
        }


def trace(model: nnx.Module, size: tuple[int, int]) -> Flow:
    """Follow the channels of a metric in evaluation mode, which is changed: pass a copy.

    Args:
        model: the metric.
        size: (height, width) of the images for tracing; the result does not depend on it.
    """
    found = layers_of(model)
    result = Flow([layer for layer, _ in found])
    for place, (layer, spots) in enumerate(found):
        stand_in = _StandIn(layer, place, result)
        for parent, key in spots:
            replace(parent, key, stand_in)
    for _, parent in list(nnx.iter_modules(model)):
        if isinstance(parent, Stages):
            for name in parent.order:
                parent.stage[name] = _Stage(parent.stage[name])
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program: Any = jax.make_jaxpr(lambda x: model(x))(image)
    result.numbers.pin(*result.walk(program.jaxpr, program.consts, [None]))
    result.finish()
    return result


class _StandIn:
    """Replace a layer during the abstract run."""

    def __init__(self, layer: Any, place: int, result: Flow):
        self._layer, self._place, self._result = layer, place, result

    def __call__(self, x: Array, **options: Any) -> Array:
        out = jax.eval_shape(lambda x: self._layer(x, **options), x)
        if x.ndim != 4 or (isinstance(self._layer, nnx.BatchNorm) and self._layer.axis not in (-1, 3)):
            self._result.fixed.add(self._place)
            return WHOLE.bind(x) if out.shape == x.shape else self._layer(WHOLE.bind(x), **options)
        return LAYER.bind(x, place=self._place, shape=out.shape, dtype=out.dtype)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._layer, name)
        if isinstance(found, nnx.Variable):
            self._result.fixed.add(self._place)
        return found


class _Stage:
    """Replace a stage during the abstract run: its map stays whole, so that heads, blocks and features can read it."""

    def __init__(self, stage: Any):
        self._stage = stage

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return WHOLE.bind(self._stage(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


def _keeps_constants(params: dict[str, Any]) -> bool:
    """Return whether each window of a maximum has one channel and at least one pixel of the map."""
    windows, pads = params["window_dimensions"], params["padding"]
    inside = all(max(pad) < window for pad, window in zip(pads, windows, strict=True))
    return windows[-1] == 1 and inside and set(params["base_dilation"]) == set(params["window_dilation"]) == {1}


def _programs(equation: Any) -> list[Any]:
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    return [leaf for leaf in leaves if isinstance(leaf, ClosedJaxpr | Jaxpr)]


def _scalar(value: Any) -> Any:
    return np.asarray(value).reshape(())[()] if np.size(value) == 1 and np.asarray(value).dtype.kind in "fiub" else None
