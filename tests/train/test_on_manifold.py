"""The optimiser of orthogonal matrices: against optax for free parameters, analytic optima, and dense SVD."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from quick import every

from jaxiqa import models
from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant, run_folder
from jaxiqa.layers import DirectDense, RobustBlock, beta_abs
from jaxiqa.layers.linear_algebra import random_orthogonal
from jaxiqa.lipschitz import report
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.manifold import has_matrices, on_manifold, orthogonalised

RANDOM = np.random.default_rng(0)
DIRECTIONS = {
    "adam": optax.scale_by_adam(),
    "momentum": optax.trace(0.9),
    "clipped adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.1)),
}


def descend(loss, params, optimizer, steps):
    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("shape", [(6, 6), (7, 3), (2, 5), (1, 4)])
def test_the_nearest_orthogonal_matrix_is_found(shape, name):
    """The minimum of ‖W − T‖² over orthonormal W is the polar factor of T: NumPy's SVD gives it."""
    target = RANDOM.normal(size=shape)
    u, _, v = np.linalg.svd(target, full_matrices=False)
    start = jnp.float32(u @ v)
    turned = jax.scipy.linalg.expm(
        0.3 * jnp.triu(jnp.ones((max(shape),) * 2), 1) - 0.3 * jnp.tril(jnp.ones((max(shape),) * 2), -1)
    )
    start = turned @ start if shape[0] >= shape[1] else start @ turned
    loss = lambda p: jnp.sum((p["orthogonal_matrix"] - target) ** 2)  # noqa: E731
    rate = optax.linear_schedule(0.01, 0.0, 600)
    found, _ = descend(loss, {"orthogonal_matrix": start}, on_manifold(rate, DIRECTIONS[name]), 600)
    np.testing.assert_allclose(found["orthogonal_matrix"], u @ v, atol=2e-3)


def distances(shape, rate, steps):
    """Follow random gradients; return the largest |σ − 1| after each step."""
    start = np.linalg.qr(np.random.default_rng(0).normal(size=(max(shape), min(shape))))[0]
    params = {"orthogonal_matrix": jnp.float32(start if shape[0] >= shape[1] else start.T)}
    optimizer = on_manifold(rate)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for number in range(steps):
        gradient = {"orthogonal_matrix": jax.random.normal(jax.random.key(number), shape)}
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        values = np.linalg.svd(np.asarray(params["orthogonal_matrix"], np.float64), compute_uv=False)
        yield np.abs(values - 1).max()


@pytest.mark.slow
def test_one_row_or_column_stays_a_unit_vector():
    """A product of one term is fused with what follows it; then rotations are not skew, and Adam makes that large.

    In a program of its own: the tests compile without the optimisation that fuses.
    """
    program = """
from test_on_manifold import distances
for shape in ((1, 8), (8, 1), (192, 1), (3, 1), (2, 8), (8, 2)):
    for rate in (0.03, 2e-3):
        print(shape, rate, max(distances(shape, rate, 100)), sep=";")
"""
    folders = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": folders}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = {tuple(line.split(";")[:2]): float(line.split(";")[2]) for line in ended.stdout.splitlines()}
    assert len(found) == 12
    assert max(found.values()) <= 5e-6, found


@pytest.mark.slow
@pytest.mark.parametrize("size", [384, 512])
def test_large_matrices_stay_orthogonal(size):
    """Their steps take the full exponential, which rounds more."""
    assert max(distances((size, size), 3e-3 if size == 384 else 2e-3, 24)) <= 5e-6


@pytest.mark.parametrize("small", [0.9, 0.1, 0.01, 1e-3, 1e-5, 1.7])
def test_small_singular_values_become_one_too(small):
    u, v = (np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0] for seed in (0, 1))
    given = {"orthogonal_matrix": jnp.float32(u @ np.diag([small, 0.7, 1.0]) @ v)}
    rounding = 3e-7 / small  # of the given matrix in float32, relative to its smallest singular value
    for run in (orthogonalised, jax.jit(orthogonalised)):
        found = np.asarray(run(given)["orthogonal_matrix"], np.float64)
        np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), 1, atol=2e-6)
        np.testing.assert_allclose(found, u @ v, atol=1e-6 + rounding)


@pytest.mark.slow
@pytest.mark.parametrize("rate", every(2, [0.03, 1e-3, 1.0]))
@pytest.mark.parametrize("name", every(3, DIRECTIONS))
def test_singular_values_stay_one_for_any_number_of_steps(name, rate):
    unitary = np.linalg.qr(RANDOM.normal(size=(6, 2, 5, 5)) + 1j * RANDOM.normal(size=(6, 2, 5, 5)))[0]
    params = {
        "a": {"orthogonal_matrix": random_orthogonal(jax.random.key(0), 8)},
        "b": {"unitary_matrices": jnp.float32(np.stack([unitary.real, unitary.imag]))},
    }
    targets = jax.tree.map(lambda x: jnp.float32(RANDOM.normal(size=x.shape)), params)
    loss = lambda p: sum(jnp.sum(jnp.sin(3 * x * t)) for x, t in zip(*map(jax.tree.leaves, (p, targets)), strict=True))  # noqa: E731
    for turns in (1, 4):
        found, state = descend(loss, params, on_manifold(rate, DIRECTIONS[name], turns=turns), 400)
        parts = np.asarray(found["b"]["unitary_matrices"], np.float64)
        for matrices in (np.asarray(found["a"]["orthogonal_matrix"], np.float64), parts[0] + 1j * parts[1]):
            np.testing.assert_allclose(np.linalg.svd(matrices, compute_uv=False), 1, atol=5e-6)
        assert all((distance <= 2e-6).all() for distance in (part.distance for part in state.matrices))
        assert np.abs(parts - np.asarray(params["b"]["unitary_matrices"])).max() > 0.01


@pytest.mark.parametrize("name", DIRECTIONS)
def test_free_parameters_take_the_same_steps_as_without(name):
    params = {"kernel": jnp.float32(RANDOM.normal(size=(3, 4))), "bias": jnp.zeros(4)}
    loss = lambda p: jnp.sum(jnp.cos(p["kernel"])) + jnp.sum((p["bias"] - 1) ** 2)  # noqa: E731
    alone, _ = descend(loss, params, optax.chain(DIRECTIONS[name], optax.scale(-0.01)), 20)
    both, _ = descend(loss, params, on_manifold(0.01, DIRECTIONS[name]), 20)
    jax.tree.map(np.testing.assert_array_equal, both, alone)


@pytest.mark.slow
def test_only_the_name_of_the_parameter_itself_counts():
    """A RobustBlock has a layer that is called orthogonal; its kernel is a free parameter."""
    params = nnx.to_pure_dict(nnx.split(RobustBlock(4, 2, rngs=nnx.Rngs(0)), nnx.Param, ...)[1])
    inner = {"orthogonal_matrix": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    for tree in (params, inner, nnx.split(RobustBlock(4, 2, rngs=nnx.Rngs(0)), nnx.Param, ...)[1]):
        assert not has_matrices(tree)
    assert has_matrices(nnx.split(DirectDense(3, 4, rngs=nnx.Rngs(0)), nnx.Param, ...)[1])
    assert has_matrices({"a": {"unitary_matrices": jnp.ones((2, 3, 1, 2, 2))}})


def test_weight_decay_alone_does_not_move_an_orthogonal_matrix():
    start = {"orthogonal_matrix": random_orthogonal(jax.random.key(1), 4)}
    found, _ = descend(
        lambda p: 0.0 * p["orthogonal_matrix"].sum(), start, on_manifold(0.1, optax.add_decayed_weights(0.5)), 50
    )
    np.testing.assert_allclose(found["orthogonal_matrix"], start["orthogonal_matrix"], atol=1e-6)


@pytest.mark.slow
def test_in_turns_every_group_moves_once_by_the_whole_update():
    eyes = jnp.stack([jnp.broadcast_to(jnp.eye(3), (6, 1, 3, 3)), jnp.zeros((6, 1, 3, 3))])
    gradient = {"unitary_matrices": jnp.float32(RANDOM.normal(size=eyes.shape))}
    optimizer = on_manifold(1e-4, optax.identity(), turns=4)  # 4 does not divide 6 matrices: 3 groups
    params, state = {"unitary_matrices": eyes}, optimizer.init({"unitary_matrices": eyes})
    moved = []
    for _ in range(3):
        updates, state = optimizer.update(gradient, state, params)
        moved.append(np.flatnonzero(np.abs(np.asarray(updates["unitary_matrices"])).max((0, 2, 3, 4))).tolist())
        params = optax.apply_updates(params, updates)
    assert moved == [[0, 1], [2, 3], [4, 5]]
    # At the identity a rotation of size ε moves by ε·(G − Gᴴ)/2; the sum of k gradients, over 3 groups, times 3.
    real, imaginary = (part[:, 0] for part in gradient["unitary_matrices"])
    g = np.asarray(real + 1j * imaginary)
    expected = -1e-4 * np.repeat([1, 2, 3], 2)[:, None, None] * (g - g.conj().swapaxes(-1, -2)) / 2
    change = np.asarray(params["unitary_matrices"] - eyes)[:, :, 0]
    np.testing.assert_allclose(change[0] + 1j * change[1], expected, atol=1e-6)


@pytest.mark.slow
def test_a_network_of_nnx_is_optimised_and_stays_one_lipschitz():
    class Net(nnx.Module):
        def __init__(self):
            self.first, self.last = (
                DirectDense(3, 8, rngs=nnx.Rngs(0)),
                DirectDense(8, 1, use_bias=True, rngs=nnx.Rngs(1)),
            )

        def __call__(self, x):
            return self.last(beta_abs(self.first(x)))[:, 0]

    net, x = Net(), jax.random.normal(jax.random.key(0), (64, 3))
    wanted = jnp.abs(x[:, 0] - x[:, 1]) / np.sqrt(2)
    optimizer = nnx.Optimizer(net, on_manifold(0.02), wrt=nnx.Param)
    losses = []

    @nnx.jit
    def step(net, optimizer):
        loss, gradient = nnx.value_and_grad(lambda net: jnp.mean((net(x) - wanted) ** 2))(net)
        optimizer.update(net, gradient)
        return loss

    for _ in range(200):
        losses.append(float(step(net, optimizer)))
    assert losses[-1] < 0.05 * losses[0]
    assert np.linalg.norm(jax.vmap(jax.grad(lambda x: net(x[None])[0]))(x), axis=1).max() <= 1 + 1e-5


def test_the_mean_of_orthogonal_matrices_is_replaced_by_the_nearest_one():
    turn = jnp.eye(5, k=1) - jnp.eye(5, k=-1)
    a, b = (random_orthogonal(jax.random.key(0), 5) @ jax.scipy.linalg.expm(s * turn) for s in (0.1, 0.4))
    u, _, v = np.linalg.svd((a + b) / 2)
    found = orthogonalised({"x": {"orthogonal_matrix": (a + b) / 2}, "bias": jnp.ones(2)})
    np.testing.assert_allclose(found["x"]["orthogonal_matrix"], u @ v, atol=1e-5)
    np.testing.assert_array_equal(found["bias"], 1)


@pytest.mark.slow
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_certified_metric_trained_by_the_program_keeps_its_constant(tmp_path, average):
    data = Data("builtin", options={"size": (24, 32), "train": 16, "val": 8, "test": 4})
    training = Training(epochs=4, batch_size=4, learning_rate=0.02, weight_decay=1e-3, average=average)
    model = Model(metric="lipschitz_iqa", options={"channels": (8, 12), "depth": (1, 1), "slope": 0.05})
    chosen = Experiment("x", data, model, {"base": Variant(training)}, Evaluation(data, {}), workdir=str(tmp_path))
    train_variant(chosen, "base", 0, load_data(chosen, ["base"]), {}, {})
    trained = models.load_run(run_folder(chosen, "base", 0))
    for _, layer in nnx.iter_modules(trained):
        if isinstance(layer, DirectDense):
            values = np.linalg.svd(np.asarray(layer.orthogonal_matrix[...], np.float64), compute_uv=False)
            np.testing.assert_allclose(values, 1, atol=5e-6)
    assert float(trained.slope) == pytest.approx(0.05, rel=1e-5)  # weight decay, too, leaves a fixed slope
    assert report(trained, (24, 32, 3)).bound == pytest.approx(trained.constant((24, 32)), rel=0.01)


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match="turns"):
        on_manifold(0.1, turns=0)
    optimizer = on_manifold(0.1)
    params = {"orthogonal_matrix": jnp.eye(2)}
    with pytest.raises(ValueError, match="params is None"):
        optimizer.update(params, optimizer.init(params))
