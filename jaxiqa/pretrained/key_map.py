"""Convert a checkpoint's arrays to a module's parameters by a table of rules; both must match completely.

A rule is ``(pattern, target, layout)``: an array whose key fully matches the pattern is converted by ``layout`` and
becomes the parameter ``target`` (``\\1`` is the pattern's first group); if the target is None, the array is dropped on
purpose. The first rule that matches is used. A parameter's name is its path: ``stage.layer1.0.conv1.kernel``.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxiqa.core.differences import listed
from jaxiqa.core.variables import Constant

Layout = Callable[[np.ndarray], np.ndarray]
Rule = tuple[str, str | None, Layout]


class Mapped(NamedTuple):
    """What an array of a checkpoint became: the parameter ``target``, or None if it was dropped on purpose."""

    source: str
    shape: tuple[int, ...]
    target: str | None
    target_shape: tuple[int, ...] | None


def same(array: np.ndarray) -> np.ndarray:
    """Return the array unchanged."""
    return array


def conv_kernel(array: np.ndarray) -> np.ndarray:
    """Transpose ``cout cin kh kw`` -> ``kh kw cin cout``; a depthwise ``c 1 kh kw`` becomes ``kh kw 1 c``."""
    return array.transpose(2, 3, 1, 0)


def linear_kernel(array: np.ndarray) -> np.ndarray:
    """Transpose ``out in`` -> ``in out``."""
    return array.T


def flat_kernel(array: np.ndarray) -> np.ndarray:
    """Reshape a 1×1 convolution ``1 1 in out`` to a linear map ``in out``."""
    return array.reshape(array.shape[-2:])  # raises an error unless it is 1×1


def conv(source: str, target: str, *, bias: bool = False) -> tuple[Rule, ...]:
    """Return rules for a PyTorch convolution, with or without a bias."""
    kernel = (rf"{source}\.weight", f"{target}.kernel", conv_kernel)
    return (kernel, (rf"{source}\.bias", f"{target}.bias", same)) if bias else (kernel,)


def linear(source: str, target: str) -> tuple[Rule, ...]:
    """Return rules for a PyTorch linear layer."""
    return ((rf"{source}\.weight", f"{target}.kernel", linear_kernel), (rf"{source}\.bias", f"{target}.bias", same))


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Return rules for a PyTorch batch norm; its number of batches is not used."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return (
        *((rf"{source}\.{theirs}", f"{target}.{ours}", same) for theirs, ours in names.items()),
        (rf"{source}\.num_batches_tracked", None, same),
    )


def layer_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Return rules for a PyTorch layer norm."""
    return ((rf"{source}\.weight", f"{target}.scale", same), (rf"{source}\.bias", f"{target}.bias", same))


def under(prefix: str, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the same rules for a module at ``prefix`` of a larger one."""
    return tuple((pattern, target and f"{prefix}.{target}", layout) for pattern, target, layout in rules)


def without(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return rules that drop, on purpose, every array that ``rules`` would use."""
    return tuple((pattern, None, layout) for pattern, _, layout in rules)


IDENTITY: tuple[Rule, ...] = ((r".*", r"\g<0>", same),)


def parameters(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Return parameters, constants and batch statistics of a module by their dotted path, sorted.

    >>> sorted(parameters(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
    ['bias', 'kernel']
    """
    flat = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat, Constant)))
    return {".".join(map(str, path)): variable for path, variable in flat}


def knows(key: str, rules: Sequence[Rule]) -> bool:
    """Return whether any rule matches this key."""
    return any(re.fullmatch(pattern, key) for pattern, _, _ in rules)


def without_prefix(arrays: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Remove a prefix that a wrapper added to all or most names, so that the rules know the names.

    The prefix may be any (``model.``, ``net.``, ``student.encoder.``): parts are removed from the left as long as more
    names are known without them and no two names become equal.

    >>> list(without_prefix({"model.net.fc.bias": np.ones(1), "loss.weight": np.ones(1)}, linear("fc", "layer")))
    ['model.net.fc.bias', 'loss.weight']
    >>> list(without_prefix({"model.net.fc.bias": np.ones(1)}, linear("fc", "layer")))
    ['fc.bias']
    """

    def known(names: Sequence[str]) -> int:
        return sum(knows(name, rules) for name in names)

    names = best = list(arrays)
    most = known(names)
    while most < len(names):
        first = Counter(name.partition(".")[0] for name in names if "." in name).most_common(1)
        if not first or first[0][1] * 2 <= len(names):
            break
        names = [name.removeprefix(f"{first[0][0]}.") for name in names]
        if len(set(names)) < len(names):
            break
        if (count := known(names)) > most:
            best, most = names, count
    return dict(zip(best, arrays.values(), strict=True))


def fill(module: nnx.Module, arrays: Mapping[str, np.ndarray], rules: Sequence[Rule], *, source: str) -> list[Mapped]:
    """Set every parameter and batch statistic of ``module`` from ``arrays``, in place, as float32.

    Args:
        module: the module to fill; it may be abstract (`flax.nnx.eval_shape`).
        arrays: the checkpoint, under its own names.
        rules: the table that maps its names and layouts.
        source: name of the checkpoint in errors, usually its path.

    Returns:
        What each array became, sorted by its name in the checkpoint.

    Raises:
        ValueError: the message lists every key without a rule, every parameter that is missing or given twice, and
            every array of the wrong shape, of a type other than float, or with NaN or infinite values. Of more than
            twenty, the rest is in a file that it names. The module is then unchanged.

    >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    >>> fill(layer, {"fc.weight": np.ones((3, 2)), "fc.bias": np.zeros(3)}, linear("fc", "layer"), source="demo")
    Traceback (most recent call last):
    ValueError: demo does not fit:
      fc.bias: this network has no parameter layer.bias
      fc.weight: this network has no parameter layer.kernel
      bias: missing
      kernel: missing
    """
    wanted = parameters(module)
    filled: dict[str, np.ndarray] = {}
    mapped, problems = [], []
    for key, array in sorted(arrays.items()):
        found = next(((rule, match) for rule in rules if (match := re.fullmatch(rule[0], key))), None)
        if found is None:
            problems.append(f"{key}: unknown")
            continue
        (_, target, layout), match = found
        if target is None:
            mapped.append(Mapped(key, array.shape, None, None))
            continue
        name = match.expand(target)
        if name not in wanted:
            problems.append(f"{key}: this network has no parameter {name}")
            continue
        if name in filled:
            problems.append(f"{key}: {name} is given twice")
            continue
        filled[name] = np.empty(0)  # from here on it counts as faulty, not as missing
        if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
            problems.append(f"{key}: has type {array.dtype}, expected float")
            continue
        try:
            value = layout(array)
            shape = value.shape
        except (ValueError, IndexError):  # the layout expects another number of axes
            shape = None
        if shape != wanted[name].shape:
            problems.append(f"{key}: has shape {array.shape}, which does not fit {name} {wanted[name].shape}")
        elif not np.isfinite(value).all():
            problems.append(f"{key}: has NaN or infinite values")
        else:
            filled[name] = value
            mapped.append(Mapped(key, array.shape, name, value.shape))
    problems += [f"{name}: missing" for name in sorted(wanted.keys() - filled.keys())]
    if problems:
        raise ValueError(f"{source} does not fit:\n{listed(problems)}")
    for name, variable in wanted.items():
        variable.set_value(jnp.asarray(filled[name], jnp.float32))
    return mapped
