"""An upper bound of how far a metric's score can move, from the program that computes it.

The metric is traced, and the bound is carried through every operation of the trace, so that nothing can be left out
and no structure has to be declared: sums add the bounds of their terms (a residual block is 1 + L), joined features
add in squares, and an operation without a rule makes the bound infinite and says why.
"""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxiqa import layers
from jaxiqa.lipschitz.rules import FUNCTIONS, RULES, Gain, Operation, unbounded
from jaxiqa.lipschitz.spectral import power_iteration


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: of the layer, from the path of its weights; of the operation where there are none.
        shape: of its output, for one image.
        method: how its own bound was found, or why there is none.
        lower, upper: bounds of its own Lipschitz constant.
        exact: whether ``upper`` is the constant itself, up to 1e-9.
        seconds: that finding them took.
        bound: of everything from the image up to here.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    lower: float
    upper: float
    exact: bool
    seconds: float
    bound: float


@dataclass(frozen=True)
class Report:
    """What `report` found; print it, or read its rows.

    Attributes:
        rows: one per layer, in the order they run.
        bound: of the whole: |f(x) − f(y)| ≤ bound · ‖x − y‖₂ for images in [0, 1], in real arithmetic.
        image_shape: of the images it holds for.
    """

    rows: tuple[Row, ...]
    bound: float
    image_shape: tuple[int, ...]

    def __str__(self) -> str:
        head = ("layer", "output", "lower", "upper", "exact", "s", "up to here", "method")
        lines = [
            (
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.lower:.5g}",
                f"{row.upper:.5g}",
                "yes" if row.exact else "",
                f"{row.seconds:.2f}",
                f"{row.bound:.3e}",
                row.method,
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head) - 1)]
        text = "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
            for line in (head, *lines)
        )
        return f"{text}\nLipschitz bound of the whole: {self.bound:.6g}"

    def save_csv(self, path: str | Path) -> None:
        """Write the rows, and the whole as the last one."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Row)])
            writer.writerows(astuple(row) for row in self.rows)
            writer.writerow(["whole", "", "composed", "", self.bound, False, "", self.bound])

    def plot(self, path: str | Path) -> None:
        """Draw every layer's bounds as bars on a logarithmic axis.

        Layers whose constant is 1 by construction are left out, and counted in the title.
        """
        from matplotlib.figure import Figure

        drawn = [row for row in self.rows if row.upper != 1 or row.lower != 1]
        figure = Figure(figsize=(8, 1 + 0.22 * max(len(drawn), 4)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(drawn))
        finite = [row.upper if math.isfinite(row.upper) else np.nan for row in drawn]
        axes.barh(places, finite, color="#4878a8", label="upper bound")
        axes.barh(places, [row.lower for row in drawn], height=0.35, color="#f0a050", label="lower bound")
        for place, row in zip(places, drawn, strict=True):
            if not math.isfinite(row.upper):
                axes.text(1, place, f" unbounded: {row.method}", va="center", fontsize=7)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yticks(places, [row.name for row in drawn], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("Lipschitz constant (Euclidean norm)")
        left_out = len(self.rows) - len(drawn)
        axes.set_title(f"whole: {self.bound:.3g}; {left_out} layers of constant 1 not drawn", fontsize=9)
        axes.legend(fontsize=7)
        figure.savefig(path, dpi=150)


def report(
    model: nnx.Module | Callable[[jax.Array], jax.Array],
    image_shape: tuple[int, int, int],
    *,
    lower: bool = True,
    steps: int = 20,
) -> Report:
    """Bounds of every layer of a model, and of the model, for images of one shape.

    Args:
        model: a metric or any other module, in inference mode here whatever its own; or a function of ``1 h w c``.
            Orthogonal layers are built first (`jaxiqa.layers.materialize`).
        image_shape: (height, width, channels).
        lower: whether to look for lower bounds where the upper one is not exact; they need a compilation each.
        steps: of power iteration, for those.

    Returns:
        A `Report`. Where a layer has no bound, its row and the whole say infinity, and the row says why.

    >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> found = report(model, (4, 5, 3))
    >>> bool(np.isclose(found.bound, np.linalg.norm(model.kernel[...], 2)))
    True

    The bound is that of exact arithmetic; a float32 program also rounds.
    """
    h, w, c = image_shape
    image = jax.ShapeDtypeStruct((1, h, w, c), jnp.float32)
    if isinstance(model, nnx.Module):
        view = nnx.clone(model)
        view.eval()
        view = layers.materialize(view, (h, w), channels=c)
        graphdef, state = nnx.split(view)
        named, structure = jax.tree_util.tree_flatten_with_path(state)
        names = [_dotted(path) for path, _ in named]
        leaves = [leaf for _, leaf in named]
        traced = jax.make_jaxpr(lambda leaves, x: nnx.merge(graphdef, structure.unflatten(leaves))(x))(leaves, image)
    else:
        names, leaves = [], []
        traced = jax.make_jaxpr(lambda leaves, x: model(x))([], image)
    inputs = [_Known(leaf, frozenset([name])) for leaf, name in zip(leaves, names, strict=True)]
    analysis = _Analysis(steps if lower else 0)
    consts = [_Known(value) for value in traced.consts]
    results = analysis.run(traced.jaxpr, [*consts, *inputs, _Moving(1.0)])
    bound = math.hypot(*(value.bound for value in results if isinstance(value, _Moving)))
    return Report(tuple(analysis.rows), bound, tuple(image_shape))


class _Known(NamedTuple):
    """A value that does not depend on the image, and the paths of the weights it comes from."""

    value: Any
    origin: frozenset[str] = frozenset()


class _Moving(NamedTuple):
    """A value that depends on the image, and a bound of how fast."""

    bound: float


_HOMES = (Path(layers.__file__).parent, Path(jax.__file__).parent / "_src" / "nn")
_CALLS = {"jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat", "checkpoint", "remat2"}
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_TRIVIAL = {
    *("reshape", "transpose", "squeeze", "expand_dims", "slice", "rev", "copy", "copy_p", "convert_element_type"),
    *("neg", "pad", "add", "sub"),
}


class _Analysis:
    """Walks through a traced program, carrying bounds."""

    def __init__(self, steps: int):
        self.steps, self.rows, self.scope, self.place = steps, [], [], ""

    def run(self, jaxpr: Any, arguments: list[_Known | _Moving]) -> list[_Known | _Moving]:
        values: dict[Any, _Known | _Moving] = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

        def read(variable: Any) -> _Known | _Moving:
            return _Known(variable.val) if hasattr(variable, "val") else values[variable]

        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(variable) for variable in eqn.invars])
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def equation(self, eqn: Any, inputs: list[_Known | _Moving]) -> list[_Known | _Moving]:
        moving = [value for value in inputs if isinstance(value, _Moving)]
        inner = _called(eqn)
        if not moving and inner is None:
            origin = frozenset().union(*(value.origin for value in inputs))
            found = eqn.primitive.bind(*(value.value for value in inputs), **eqn.params)
            return [_Known(value, origin) for value in (found if eqn.primitive.multiple_results else [found])]
        name = eqn.params.get("name")
        if inner is not None and name in FUNCTIONS and len(moving) == 1 and _trusted(inner):
            return [self.layer(eqn, inputs, name, FUNCTIONS[name], _equations(inner))]
        if inner is not None:
            self.scope.append(name or "")
            found = self.run(inner.jaxpr, [*map(_Known, inner.consts), *inputs])
            self.scope.pop()
            return found
        if len(eqn.outvars) > 1:
            return self.refuse(eqn, inputs, "an operation with several results")
        return [self.several(eqn, inputs, moving) if len(moving) > 1 else self.single(eqn, inputs)]

    def single(self, eqn: Any, inputs: list) -> _Moving:
        name = eqn.primitive.name
        if name == "select_n" and isinstance(inputs[0], _Known):
            return _Moving(next(value.bound for value in inputs if isinstance(value, _Moving)))
        if name in ("concatenate", "stack"):
            return _Moving(next(value.bound for value in inputs if isinstance(value, _Moving)))
        if name == "integer_pow" and eqn.params["y"] == 1:
            return inputs[0]
        rule = RULES.get(name, lambda op: unbounded(f"no rule for {name}: its slope may be unbounded"))
        return self.layer(eqn, inputs, name, rule)

    def several(self, eqn: Any, inputs: list, moving: list[_Moving]) -> _Moving:
        name, bounds = eqn.primitive.name, [value.bound for value in moving]
        if name in ("add", "sub", "add_any"):
            method, join = "sum of paths (a residual is 1 + L)", sum
        elif name in ("concatenate", "stack", "max", "min") or (name == "select_n" and isinstance(inputs[0], _Known)):
            method, join = "joined paths (root of the sum of squares)", lambda shares: math.hypot(*shares)
        elif name == "complex":
            method, join = "real and imaginary parts", lambda shares: math.hypot(*shares)
        else:
            product = name in ("mul", "dot_general", "conv_general_dilated")
            reason = "a product of two quantities that depend on the image, such as attention"
            several = f"no rule for {name} of several quantities that depend on the image"
            return self.refuse(eqn, inputs, reason if product else several)[0]
        largest = max(bounds)
        gain = join([1.0 if bound == largest else bound / largest for bound in bounds]) if largest else 1.0
        bound = gain * largest
        return self.add(eqn, inputs, name, Gain(gain, method, exact=False), gain if gain == 1 else 0.0, 0.0, bound)

    def refuse(self, eqn: Any, inputs: list, reason: str) -> list[_Moving]:
        self.add(eqn, inputs, eqn.primitive.name, unbounded(reason), 0.0, 0.0, math.inf)
        return [_Moving(math.inf) for _ in eqn.outvars]

    def layer(self, eqn: Any, inputs: list, name: str, rule: Callable, inner: tuple = ()) -> _Moving:
        began = time.perf_counter()
        place = next(i for i, value in enumerate(inputs) if isinstance(value, _Moving))
        called = _called(eqn)

        def apply(x: jax.Array) -> jax.Array:
            values = [x if i == place else value.value for i, value in enumerate(inputs)]
            return jaxpr_as_fun(called)(*values)[0] if called else eqn.primitive.bind(*values, **eqn.params)

        operation = Operation(
            name=name,
            params=eqn.params,
            known=[value.value if isinstance(value, _Known) else None for value in inputs],
            shapes=[tuple(variable.aval.shape) for variable in eqn.invars],
            out=tuple(eqn.outvars[0].aval.shape),
            apply=apply,
            inner=inner,
        )
        gain = rule(operation)
        if math.isnan(gain.upper):
            gain = unbounded("weights that are not finite")
        lowest = gain.upper if gain.exact else 0.0
        if gain.linear and self.steps and not gain.exact:
            x = jnp.zeros(operation.shapes[place], eqn.invars[place].aval.dtype)
            lowest = float(power_iteration(apply, x, jax.random.key(0), steps=self.steps))
            if not lowest <= gain.upper * (1 + 1e-4):
                raise ArithmeticError(f"{name}: a norm of {lowest} was seen above the bound {gain.upper}; report this")
        factors = (gain.upper, inputs[place].bound)
        bound = math.prod(factors) if all(factors) else 0.0  # 0 · ∞ is 0: the other side does not depend on the image
        return self.add(eqn, inputs, name, gain, lowest, time.perf_counter() - began, bound)

    def add(
        self, eqn: Any, inputs: list, name: str, gain: Gain, lowest: float, seconds: float, bound: float
    ) -> _Moving:
        if not (name in _TRIVIAL and gain.upper == 1):
            origin = frozenset().union(*(value.origin for value in inputs if isinstance(value, _Known)))
            title = _common(origin)
            self.place = title or self.place
            operation = "/".join(filter(None, [*self.scope, name]))
            title = title or f"{self.place.rpartition('.')[0]}: {operation}".removeprefix(": ")
            shape = tuple(eqn.outvars[0].aval.shape)[1:]
            self.rows.append(Row(title, shape, gain.method, lowest, gain.upper, gain.exact, seconds, bound))
        return _Moving(bound)


def _called(eqn: Any) -> ClosedJaxpr | None:
    """The program that this equation calls, if that is all it does."""
    if eqn.primitive.name not in _CALLS:
        return None
    inner = next(eqn.params[key] for key in _INNER if key in eqn.params)
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _trusted(program: ClosedJaxpr) -> bool:
    """Whether this is the function that a rule means, and not somebody else's of the same name."""
    path = program.jaxpr.debug_info.func_src_info.partition(" at ")[2].rpartition(":")[0]
    return Path(path).parent in _HOMES


def _equations(program: ClosedJaxpr) -> tuple[Any, ...]:
    found = []
    for eqn in program.jaxpr.eqns:
        inner = _called(eqn)
        found += [eqn] if inner is None else _equations(inner)
    return tuple(found)


def _dotted(path: tuple) -> str:
    keys = [str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", "")))) for entry in path]
    return ".".join(key for key in keys if key not in ("", "value", "raw_value"))


def _common(origin: frozenset[str]) -> str:
    """The module that all these weights belong to."""
    paths = [name.split(".")[:-1] or [name] for name in origin]
    if not paths:
        return ""
    shared = [keys[0] for keys in zip(*paths, strict=False) if len(set(keys)) == 1]
    return ".".join(shared)
