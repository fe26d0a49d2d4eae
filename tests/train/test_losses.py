import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import pearsonr

from jaxiqa.models import Linearity
from jaxiqa.train.losses import LOSSES, mse, norm_in_norm, plcc, ranked_mse


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["batch0", "batch1", "batch2"])
def test_norm_in_norm_equals_the_reference_with_its_gradient(shared, batch):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "09_norm_in_norm.npz")
    expected = json.loads((folder / "09_norm_in_norm.json").read_text())["expected"][batch]
    mos = arrays[f"{batch}_target"]
    heads = np.stack([arrays[f"{batch}_pred{head}"] for head in range(3)], axis=1)
    with jax.enable_x64(True):
        mos, heads = jnp.asarray(mos), jnp.asarray(heads)
        for head in range(3):
            assert float(norm_in_norm(heads[:, head], mos)) == pytest.approx(expected["per_head"][head], abs=1e-10)
            squared = norm_in_norm(heads[:, head], mos, p=2.0, q=2.0)
            assert float(squared) == pytest.approx(expected["p2q2_per_head"][head], abs=1e-10)
        weights = Linearity.loss_weights
        value, gradient = jax.value_and_grad(
            lambda x: Linearity.total_loss(dict(zip(weights, x.T, strict=True)), mos, norm_in_norm)
        )(heads)
    assert float(value) == pytest.approx(expected["total"], abs=1e-10)
    for head in range(3):
        np.testing.assert_allclose(gradient[:, head], arrays[f"{batch}_grad{head}"], atol=1e-9)


def test_plcc_loss_is_one_minus_pearson_over_two():
    x, y = np.random.default_rng(0).normal(size=(2, 17)).astype(np.float32)
    assert float(plcc(jnp.asarray(x), jnp.asarray(y))) == pytest.approx((1 - pearsonr(x, y)[0]) / 2, abs=1e-6)


def test_mse_is_in_squared_units():
    assert float(mse(jnp.array([0.0, 3.0]), jnp.array([1.0, 1.0]))) == 2.5


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_and_gradient_is_finite_for_equal_values(name):
    value, gradient = jax.value_and_grad(LOSSES[name])(jnp.ones(4), jnp.arange(4.0))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_one_image_has_norm_in_norm_loss_zero():
    assert float(norm_in_norm(jnp.array([3.0]), jnp.array([50.0]))) == 0.0


SHAPES = """
import jax.numpy as jnp
from jaxiqa.train.losses import LOSSES
for name, loss in LOSSES.items():
    for predictions, mos in (((4, 1), (4,)), ((4,), (4, 1)), ((4,), (1,)), ((), (4,))):
        try:
            loss(jnp.ones(predictions), jnp.ones(mos))
        except ValueError:
            continue
        raise SystemExit(f"{name} accepts predictions {predictions} and labels {mos}")
"""


@pytest.mark.slow
def test_a_loss_refuses_shapes_that_would_be_broadcast():
    """In another process: here the annotations are checked too, as they are not for users."""
    done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ranked_mse_by_loops():
    p, y = np.random.default_rng(1).normal(size=(2, 9)).astype(np.float32)
    y[3] = y[5]  # a pair without an order costs nothing
    short = [max(0.0, abs(y[i] - y[j]) - np.sign(y[i] - y[j]) * (p[i] - p[j])) ** 2 for i in range(9) for j in range(9)]
    expected = np.mean((p - y) ** 2) + np.mean(short) / 2
    assert float(ranked_mse(jnp.asarray(p), jnp.asarray(y))) == pytest.approx(expected, rel=1e-5)
