"""An upper bound of how far a metric's score can move, computed from its traced program.

The bound is propagated through every operation of the trace. So nothing can be missed and no structure must be
declared: sums add the bounds of their terms (a residual block is 1 + L), and joined features add in squares. An
operation without a rule makes the bound infinite; the report gives the reason.
"""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr

from jaxiqa import layers
from jaxiqa.core.checks import check_number
from jaxiqa.lipschitz.movement import movement, only_moves
from jaxiqa.lipschitz.operation import jump
from jaxiqa.lipschitz.rows import Report, Row
from jaxiqa.lipschitz.rules import FUNCTIONS, JOINS, RULES, SEVERAL_RESULTS, Gain, Operation, unbounded
from jaxiqa.lipschitz.spectral import power_iteration
from jaxiqa.lipschitz.spectrum import carried
from jaxiqa.lipschitz.trace import Known, Moving, bind, called, operation_of


def report(
    model: Any,
    image_shape: Any,
    *,
    lower: bool = True,
    steps: int = 20,
) -> Report:
    """Return bounds of every layer of a model and of the whole model, for images of one shape.

    Args:
        model: a metric or any other module, used in inference mode whatever its own mode; or a function of ``1 h w c``.
            Orthogonal layers are computed first (`jaxiqa.layers.materialize`).
        image_shape: (height, width, channels).
        lower: whether to compute lower bounds if the upper bound is not exact; each needs a compilation.
        steps: of power iteration for the lower bounds; at least 1.

    Returns:
        A `Report`. If a layer has no bound, its row and the whole are infinite, and the row gives the reason.

    Raises:
        ValueError: ``image_shape`` is not (height, width, channels), or the model does not accept such images.
        TypeError: ``model`` cannot be called, or JAX cannot trace it.

    >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> found = report(model, (4, 5, 3))
    >>> bool(np.isclose(found.bound, np.linalg.norm(model.kernel[...], 2)))
    True

    The bound is for exact arithmetic; a float32 program also rounds. Rounding to fewer bits than float32, as in a
    model that computes in bfloat16, is a step function without a bound.
    """
    h, w, c = _checked_shape(image_shape)
    check_number("steps", steps, 1)
    if not callable(model):
        raise TypeError(f"model is a {type(model).__name__}; expected a module or a function of images, 1 h w c")
    names, leaves, function = [], [], lambda leaves, x: model(x)
    if isinstance(model, nnx.Module):
        view = nnx.clone(model)
        view.eval()
        view = layers.materialize(view, (h, w), channels=c)
        graphdef, state = nnx.split(view)
        named, structure = jax.tree_util.tree_flatten_with_path(state)
        names, leaves = [_dotted(path) for path, _ in named], [leaf for _, leaf in named]
        function = lambda leaves, x: nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))(x)  # noqa: E731
    try:
        traced = jax.make_jaxpr(function)(leaves, jax.ShapeDtypeStruct((1, h, w, c), jnp.float32))
    except jax.errors.JAXTypeError as error:  # the model needs a concrete value during tracing
        raise TypeError(f"model cannot be traced by JAX, so it has no bound: {_first_line(error)}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"model does not take images of image_shape={(h, w, c)} (height, width, channels): {_first_line(error)}"
        ) from error
    inputs = [Known(leaf, frozenset([name])) for leaf, name in zip(leaves, names, strict=True)]
    analysis = _Analysis(steps if lower else 0)
    consts = [Known(value) for value in traced.consts]
    results = analysis.run(traced.jaxpr, [*consts, *inputs, Moving(1.0)])
    bound = math.hypot(*(value.bound for value in results if isinstance(value, Moving)))
    return Report(tuple(analysis.rows), bound, (h, w, c))


def _checked_shape(image_shape: Any) -> tuple[int, int, int]:
    sides = tuple(image_shape) if isinstance(image_shape, tuple | list) else ()
    if len(sides) != 3 or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in sides):
        shown = f"an array of shape {tuple(image_shape.shape)}" if hasattr(image_shape, "shape") else repr(image_shape)
        raise ValueError(f"image_shape is {shown}; expected (height, width, channels), such as (48, 64, 3)")
    if min(sides) < 1:
        raise ValueError(f"image_shape={image_shape!r}: height, width and channels must be at least 1")
    if sides[2] > 4 >= sides[0]:
        raise ValueError(f"image_shape={image_shape!r} looks like (channels, height, width); channels come last")
    h, w, c = (int(n) for n in sides)
    return h, w, c


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_PASSED_ON = {"optimization_barrier", "device_put"}
_TRIVIAL = {
    *("reshape", "transpose", "squeeze", "slice", "rev", "copy", "copy_p", "convert_element_type"),
    *("neg", "pad", "add", "sub", "select_n", "concatenate", "stack", "split", "unstack"),
    *("stop_gradient", "name", "integer_pow"),
}


class _Analysis:
    """Propagate bounds through a traced program."""

    def __init__(self, steps: int):
        self.steps, self.place = steps, ""
        self.rows: list[Row] = []
        self.scope: list[str] = []

    def run(self, jaxpr: Any, arguments: list[Known | Moving]) -> list[Known | Moving]:
        values: dict[Any, Known | Moving] = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

        def read(variable: Any) -> Known | Moving:
            return Known(variable.val) if hasattr(variable, "val") else values[variable]

        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(variable) for variable in eqn.invars])
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def equation(self, eqn: Any, inputs: list[Known | Moving]) -> list[Known | Moving]:
        moving = [place for place, value in enumerate(inputs) if isinstance(value, Moving)]
        inner, name = called(eqn), eqn.primitive.name
        known = [value for value in inputs if isinstance(value, Known)]
        if not moving and inner is None:
            origin: frozenset[str] = frozenset().union(*(value.origin for value in known))
            found = bind(eqn, [value.value for value in known])
            return [Known(value, origin) for value in (found if eqn.primitive.multiple_results else [found])]
        if inner is not None:
            return self.function(eqn, inputs, moving, inner)
        if name in _PASSED_ON:
            return list(inputs)
        if len(eqn.outvars) > 1 and name not in SEVERAL_RESULTS:
            return [*self.refuse(eqn, inputs, f"no rule for {name}: an operation with several results")]
        join = self.single if len(moving) == 1 else self.several
        return [join(eqn, inputs, moving, output) for output in eqn.outvars]

    def function(self, eqn: Any, inputs: list, moving: list[int], inner: ClosedJaxpr) -> list[Known | Moving]:
        """Bound a call: by the rule of the function if it has one, else equation by equation."""
        name = eqn.params.get("name") or ""
        if len(inputs) == len(moving) == len(eqn.outvars) == 1 and only_moves(inner):
            began = time.perf_counter()
            operation = operation_of(eqn, inputs, 0, eqn.outvars[0], name=name, inner=inner)
            return [self.layer(eqn, inputs, operation, movement(inner, operation.shape), began)]
        if name in FUNCTIONS and len(moving) == len(eqn.outvars) == 1:
            began = time.perf_counter()
            operation = operation_of(eqn, inputs, moving[0], eqn.outvars[0], name=name, inner=inner)
            gain = FUNCTIONS[name].gain(operation, inner)
            if math.isfinite(gain.upper) and jump(operation) is None:
                return [self.layer(eqn, inputs, operation, gain, began)]
        self.scope.append(name)
        found = self.run(inner.jaxpr, [*map(Known, inner.consts), *inputs])
        self.scope.pop()
        return found

    def single(self, eqn: Any, inputs: list, moving: list[int], output: Any) -> Moving:
        """Bound an operation with one input that depends on the image."""
        began = time.perf_counter()
        operation = operation_of(eqn, inputs, moving[0], output)
        return self.layer(eqn, inputs, operation, _gain(operation), began)

    def several(self, eqn: Any, inputs: list, moving: list[int], output: Any) -> Moving:
        """Bound an operation with several inputs that depend on the image, by joining their bounds."""
        name = eqn.primitive.name
        operations = [operation_of(eqn, inputs, place, output) for place in moving]
        gains = [_gain(operation) for operation in operations]
        refused = [gain.method for gain in gains if not math.isfinite(gain.upper)]
        if name not in JOINS and not refused:
            refused = [f"no rule for {name} of several quantities that depend on the image"]
        if refused:
            return self.refuse(eqn, inputs, refused[0])[0]
        method, join = JOINS[name]
        bounds = [gain.upper * inputs[place].bound for gain, place in zip(gains, moving, strict=True)]
        largest = max(inputs[place].bound for place in moving)
        if largest == 0 or math.isinf(largest):
            upper, bound = join([gain.upper for gain in gains]), largest
        else:
            bound = join(bounds)
            upper = bound / largest
        gain = Gain(upper, method, exact=False)
        first, *others = [carried(operation) for operation in operations]
        same = first is not None and all(other is not None and np.array_equal(first, other) for other in others)
        return self.add(eqn, inputs, name, gain, 1.0 if upper == 1 else 0.0, 0.0, bound, first if same else None)

    def refuse(self, eqn: Any, inputs: list, reason: str) -> list[Moving]:
        self.add(eqn, inputs, eqn.primitive.name, unbounded(reason), 0.0, 0.0, math.inf)
        return [Moving(math.inf) for _ in eqn.outvars]

    def layer(self, eqn: Any, inputs: list, operation: Operation, gain: Gain, began: float) -> Moving:
        if math.isnan(gain.upper):
            gain = unbounded("weights that are not finite")
        name, place = operation.name, operation.moving
        lowest = gain.upper if gain.exact else 0.0
        if gain.linear and self.steps and not gain.exact:
            x = jnp.zeros(operation.shape, operation.dtypes[place])
            lowest = float(power_iteration(operation.apply, x, jax.random.key(0), steps=self.steps))
            if not lowest <= gain.upper * (1 + 1e-4):
                raise ArithmeticError(f"{name}: a norm of {lowest} exceeds the bound {gain.upper}; please report this")
        factors = (gain.upper, inputs[place].bound)
        bound = math.prod(factors) if all(factors) else 0.0  # 0 · ∞ is 0: a gain of 0 makes the result constant
        weights = gain.weights if gain.weights is not None else carried(operation)
        return self.add(eqn, inputs, name, gain, lowest, time.perf_counter() - began, bound, weights)

    def add(
        self,
        eqn: Any,
        inputs: list,
        name: str,
        gain: Gain,
        lowest: float,
        seconds: float,
        bound: float,
        weights: np.ndarray | None = None,
    ) -> Moving:
        if not (name in _TRIVIAL and gain.upper == 1):
            origin = frozenset().union(*(value.origin for value in inputs if isinstance(value, Known)))
            title = _common(origin)
            self.place = title or self.place
            operation = "/".join(filter(None, [*self.scope, name]))
            title = title or f"{self.place.rpartition('.')[0]}: {operation}".removeprefix(": ")
            shape = tuple(eqn.outvars[0].aval.shape)[1:]
            self.rows.append(Row(title, shape, gain.method, lowest, gain.upper, gain.exact, seconds, bound))
        return Moving(bound, weights)


def _gain(operation: Operation) -> Gain:
    """Return the gain of the primitive's rule, or no bound with the reason."""
    name = operation.name
    rule = RULES.get(name)
    if rule is None:
        return unbounded(f"no rule for {name}: its slope may be unbounded")
    reason = jump(operation)
    return unbounded(reason) if reason else rule(operation)


def _dotted(path: tuple) -> str:
    keys = [str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", "")))) for entry in path]
    return ".".join(key for key in keys if key not in ("", "value", "raw_value"))


def _common(origin: frozenset[str]) -> str:
    """Return the module that all these weights belong to."""
    paths = [name.split(".")[:-1] or [name] for name in origin]
    if not paths:
        return ""
    shared = [keys[0] for keys in zip(*paths, strict=False) if len(set(keys)) == 1]
    return ".".join(shared)
