"""Bounds of random programs hold: against the dense Jacobian in float64, and against gradient ascent on the slope.

The test runs a few programs. More, such as the 2,000 of the changelog, in parts that can be run one after another:

    JAX_PLATFORMS=cpu python -m tests.fuzz.test_fuzz_lipschitz 0 500 >> found.jsonl
"""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.core.compiled import make_room
from jaxiqa.lipschitz import report
from jaxiqa.lipschitz.functions import FUNCTIONS
from jaxiqa.lipschitz.rules import RULES
from tests.fuzz.programs import draw

ROUNDING = 1e-4
"""Tolerance: the report uses constants of the float32 program, the truth those in float64."""
UNTRIED = {"copy", "copy_p", "name", "sharding_constraint", "reduce_precision"}
"""Rules without an effect, or (the last) always refused."""


def points(size, key):
    """Return starting points: images, numbers of either sign, equal values, single peaks, zeros."""
    shape = (1, *size)
    normal = jax.random.normal(key, (6, *shape), jnp.float64)
    peaks = jnp.zeros((2, *shape)).at[:, 0, 0, 0, 0].set(jnp.array([9.0, -9.0]))
    return jnp.concatenate([normal[:2], jax.nn.sigmoid(normal[2:4]), 8 * normal[4:], peaks, 0.37 + 0 * normal[:1]])


def truth(program, size, seed):
    """Return the largest slope found: Jacobians, pairs after gradient ascent, neighbours on lines."""

    def flat(x):
        y = program(x).ravel()
        return jnp.concatenate([y.real, y.imag]) if jnp.iscomplexobj(y) else y

    def slope(pair):
        x, y = pair
        return jnp.linalg.norm(flat(x) - flat(y)) / jnp.maximum(jnp.linalg.norm(x - y), 1e-6)

    def ascend(pair):
        length = jnp.linalg.norm(pair[0] - pair[1])

        def step(pair, _):
            value, gradient = jax.value_and_grad(slope)(pair)
            gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), gradient)
            size = jnp.sqrt(sum(jnp.sum(g**2) for g in gradient)) + 1e-300
            return jax.tree.map(lambda x, g: x + 0.2 * length * g / size, pair, gradient), value

        pair, values = jax.lax.scan(step, pair, length=16)
        return jnp.nanmax(jnp.append(values, slope(pair)))

    def along(x, y):
        places = jnp.linspace(0, 1, 300).reshape(-1, 1, 1, 1, 1)
        values = jax.vmap(flat)(x + places * (y - x))
        return jnp.linalg.norm(jnp.diff(values, axis=0), axis=1).max() * 299 / jnp.linalg.norm(x - y)

    @jax.jit
    def search(x):
        jacobians = jax.vmap(jax.jacrev(flat))(x)
        jacobians = jnp.where(jnp.isfinite(jacobians), jacobians, 0).reshape(len(x), -1, math.prod(size))
        _, norms, right = jnp.linalg.svd(jacobians, full_matrices=False)
        best = jnp.argsort(-norms[:, 0])[jnp.array([0, 1, 2, 0])]
        steps = jnp.array([0.01, 0.3, 3.0, 1e-3]).reshape(-1, 1, 1, 1, 1) * right[best, 0].reshape(4, 1, *size)
        climbed = jax.vmap(ascend)((x[best], x[best] + steps))
        lines = jax.vmap(along)(x[:4], x[jnp.array([2, 4, 5, 6])])
        return norms[:, 0].max(initial=0.0), jnp.nanmax(climbed), jnp.nanmax(lines)

    with jax.enable_x64(True):
        return [float(value) for value in search(points(size, jax.random.key(seed)))]


def check(seed):
    program, size = draw(seed)
    found = report(program, size, lower=False)
    x = jnp.zeros((1, *size))
    names = sorted(used(jax.make_jaxpr(program)(x).jaxpr))
    result = {"seed": seed, "bound": found.bound, "names": names}
    if math.isfinite(found.bound):
        steepest = truth(program, size, seed)
        steepest = [value for value in steepest if not math.isnan(value)]  # from a branch that is not taken
        result |= {"truth": max(steepest), "steepest": steepest}
        result["violated"] = max(steepest) > found.bound * (1 + ROUNDING) + 1e-7
    return result


def used(jaxpr):
    """Return the names of all operations and functions of a program."""
    names = set()
    for eqn in jaxpr.eqns:
        names |= {eqn.primitive.name, eqn.params.get("name", "")}
        inner = (eqn.params.get(key) for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"))
        for program in inner:
            if hasattr(program, "eqns") or hasattr(program, "jaxpr"):
                names |= used(getattr(program, "jaxpr", program))
    return names


def test_three_random_programs_stay_within_their_bounds():
    results = [check(seed) for seed in (0, 1, 2)]
    assert all("truth" in result for result in results)
    assert not any(result["violated"] for result in results)


@pytest.mark.slow
def test_no_random_program_exceeds_its_bound():
    results = [check(seed) for seed in range(100)]
    finite = [result for result in results if "truth" in result]
    assert [result for result in finite if result["violated"]] == []
    assert len(finite) > 60
    assert np.median([result["truth"] / result["bound"] for result in finite if result["bound"] > 0]) > 0.2


@pytest.mark.slow
def test_the_programs_use_every_rule():
    names = set()
    for seed in range(400):
        program, size = draw(seed)
        names |= used(jax.make_jaxpr(program)(jnp.zeros((1, *size))).jaxpr)
    assert {*RULES, *FUNCTIONS} - names <= UNTRIED


if __name__ == "__main__":
    held = set()
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        make_room(held, seed)
        print(json.dumps(check(seed)), flush=True)
