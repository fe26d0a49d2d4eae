"""Rules of operations whose outputs are entries of their inputs: moved, copied, selected or sorted."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxiqa.lipschitz.elementwise import one
from jaxiqa.lipschitz.linear import windows
from jaxiqa.lipschitz.operation import Gain, Operation, unbounded

INDEX = "an index that depends on the image"


def setting(op: Operation) -> Gain:
    """Rule of an operation of which only the first input may depend on the image."""
    return one(op) if op.moving == 0 else unbounded("a setting that depends on the image")


def ordered(op: Operation) -> Gain:
    """Rule of sorted or largest entries; complex numbers are compared part by part, which jumps."""
    return unbounded(f"{op.name} of complex numbers jumps") if op.complex else one(op)


def running(op: Operation) -> Gain:
    """Rule of running maxima: the first of n entries may determine all n."""
    if op.complex:
        return unbounded(f"{op.name} of complex numbers jumps")
    return Gain(math.sqrt(op.shape[op.params["axis"]]), "√ of the entries after the first")


def copies(op: Operation) -> Gain:
    """Rule of operations that copy every entry equally often."""
    return Gain(math.sqrt(math.prod(op.out) / max(math.prod(op.shape), 1)), "copies")


def window_max(op: Operation, params: dict[str, Any] | None = None) -> Gain:
    """Rule of the largest or smallest value of every window."""
    matrices = windows(op.shape, params or op.params)
    if matrices is None:
        return unbounded("dilated windows")
    return Gain(math.sqrt(math.prod(int(m.sum(0).max()) for m in matrices)), "√ of the windows over a value")


def gather(op: Operation) -> Gain:
    """Rule of ``gather`` at known indices: determined by the entry that is taken most often."""
    if op.moving != 0 or op.known[1] is None:
        return unbounded(INDEX)
    pull = jax.linear_transpose(op.apply, jax.ShapeDtypeStruct(op.shape, np.float32))
    taken = np.asarray(pull(np.ones(op.out, np.float32))[0])
    return Gain(math.sqrt(float(taken.max(initial=0.0))), "copies")


def dynamic(op: Operation) -> Gain:
    """Rule of ``dynamic_slice`` and ``dynamic_update_slice`` at a known position."""
    first = 1 if op.name == "dynamic_slice" else 2
    return unbounded(INDEX) if any(value is None for value in op.known[first:]) else one(op)


def scatter(op: Operation) -> Gain:
    """Rule of ``scatter`` at known indices: every entry of the output is one entry of the inputs.

    ``x.at[i].apply(f)`` is the same primitive with a program of its own.
    """
    if op.params.get("update_jaxpr") is not None:
        return unbounded("a function is applied to entries")
    return unbounded(INDEX) if op.known[1] is None else one(op)


def scatter_add(op: Operation) -> Gain:
    """Rule of ``scatter-add`` at known indices: determined by the position to which most entries are added."""
    if op.known[1] is None:
        return unbounded(INDEX)
    if op.moving == 0:
        return one(op)
    zeros, ones = np.zeros(op.out, np.float32), np.ones(op.shape, np.float32)
    options = {key: op.params[key] for key in ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")}
    added = np.asarray(jax.lax.scatter_add(zeros, op.known[1], ones, **options))
    return Gain(math.sqrt(float(added.max(initial=0.0))), "√ of the entries added at one place")


SHAPES: dict[str, Callable[[Operation], Gain]] = {
    **dict.fromkeys(("reshape", "transpose", "squeeze", "slice", "rev"), one),
    **dict.fromkeys(("split", "unstack", "concatenate", "stack"), one),
    **dict.fromkeys(("sort", "reduce_max", "reduce_min", "top_k"), ordered),
    **dict.fromkeys(("cummax", "cummin", "cumlogsumexp"), running),
    **dict.fromkeys(("broadcast_in_dim", "tile"), copies),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), window_max),
    **dict.fromkeys(("dynamic_slice", "dynamic_update_slice"), dynamic),
    "pad": setting,
    "gather": gather,
    "scatter": scatter,
    "scatter-add": scatter_add,
}
"""Primitive -> its rule, for one input that depends on the image."""
