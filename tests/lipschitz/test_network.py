"""lower ≤ the dense singular value ≤ upper, for every kind of layer and join. Random inputs would hide errors."""

import csv
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa import layers
from jaxiqa.layers import OrthogonalConv, RobustBlock
from jaxiqa.lipschitz import report
from jaxiqa.models import build, harden
from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.kernels.wide import wide_conv

SIZE = (6, 8)
RANDOM = np.random.default_rng(0)


def conv(cin, cout, **options):
    return nnx.Conv(cin, cout, (3, 3), rngs=nnx.Rngs(0), **options)


DEPTHWISE = jnp.asarray(RANDOM.normal(size=(3, 3, 3)), jnp.float32)
GROUPED = jnp.asarray(RANDOM.normal(size=(3, 3, 1, 6)), jnp.float32)
WIDE = jnp.asarray(RANDOM.normal(size=(3, 3, 3, 5)), jnp.float32)
MATRIX = jnp.asarray(RANDOM.normal(size=(3, 4)), jnp.float32)
FIRST, SECOND = conv(3, 3), conv(3, 3)

LINEAR = {
    "conv": conv(3, 4),
    "strided": conv(3, 4, strides=2),
    "grouped": conv(3, 6, feature_group_count=3),
    "dilated": conv(3, 4, kernel_dilation=2),
    "valid": conv(3, 4, padding="VALID"),
    "circular": conv(3, 4, padding="CIRCULAR"),
    "depthwise": lambda x: depthwise_conv(x, DEPTHWISE, stride=(1, 1), padding=((1, 1), (1, 1))),
    "depthwise strided": lambda x: depthwise_conv(x, DEPTHWISE, stride=(2, 2), padding=((0, 1), (0, 1))),
    "in groups": lambda x: grouped_conv(x, GROUPED, stride=(2, 1), padding=((1, 1), (1, 1))),
    "wide": lambda x: wide_conv(x, WIDE, padding=((1, 1), (1, 1))),
    "dense": lambda x: x @ MATRIX,
    "residual": lambda x: x + FIRST(x),
    "difference": lambda x: FIRST(x) - x,
    "concatenated": lambda x: jnp.concatenate([FIRST(x), SECOND(x)], -1),
    "stacked": lambda x: jnp.stack([FIRST(x), SECOND(x)]),
    "residual of strided": lambda x: x[:, ::2, ::2] + conv(3, 3, strides=2)(x),
    "mean": lambda x: x.mean((1, 2)),
    "average pool": lambda x: nnx.avg_pool(x, (3, 2), strides=(2, 1), padding="SAME"),
    "scaled": lambda x: (x - 0.3) * jnp.array([1.0, -2.0, 0.5]) / jnp.array([2.0, 0.5, 1.0]),
    "resized": lambda x: jax.image.resize(x, (1, 4, 5, 3), "bilinear"),
    "enlarged": lambda x: jax.image.resize(x, (1, 9, 11, 3), "cubic"),
    "broadcast": lambda x: jnp.broadcast_to(x[:, :, :, None], (*x.shape[:3], 4, 3)),
    "gathered": lambda x: x[:, jnp.array([0, 0, 3])],
    "transformed": lambda x: jnp.fft.irfft2(jnp.fft.rfft2(x, axes=(1, 2)), s=SIZE, axes=(1, 2)),
    "low band": OrthogonalConv(3, 3, band=0.5, rngs=nnx.Rngs(1)),
    "reflection": OrthogonalConv(3, 3, unitary="reflection", rank=2, rngs=nnx.Rngs(1)),
    "orthogonal": OrthogonalConv(3, 4, rngs=nnx.Rngs(1)),
    "1-Lipschitz block": RobustBlock(3, 2, reduce="orthogonal", low_pass=0.6, rngs=nnx.Rngs(2)),
}
# Here the bound of a join adds terms that cannot occur together.
LOOSE = {"residual": 1.6, "difference": 1.5, "residual of strided": 1.6, "concatenated": 1.4, "stacked": 1.4}
LOOSE |= {"transformed": 1.5, "circular": 4}


def dense_norm(function, cin=3):
    zero = jnp.zeros((1, *SIZE, cin))
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: function(x).ravel()))(zero), np.float64)
    return np.linalg.norm(jacobian.reshape(len(jacobian), -1), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(4, LINEAR))
def test_the_bound_is_above_the_dense_norm_and_close(name):
    found = report(LINEAR[name], (*SIZE, 3), lower=False)
    norm = dense_norm(LINEAR[name])
    assert norm <= found.bound * (1 + 1e-6)
    assert found.bound <= LOOSE.get(name, 1.25) * norm
    for row in found.rows:
        assert row.lower <= row.upper * (1 + 1e-6)
        assert not row.exact or row.lower == row.upper


@pytest.mark.parametrize(
    "name",
    every(2, ["conv", "strided", "grouped", "dilated", "depthwise", "depthwise strided", "valid", "wide", "in groups"]),
)
def test_the_bounds_of_one_layer_enclose_its_norm(name):
    rows = [row for row in report(LINEAR[name], (*SIZE, 3), steps=60).rows if "bias" not in row.name]
    norm = dense_norm(LINEAR[name])
    assert len(rows) == 1
    assert 0.97 * norm <= rows[0].lower <= norm * (1 + 1e-5)
    assert norm <= rows[0].upper


NONLINEAR = {
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "max pool": lambda x: nnx.max_pool(x, (3, 3), strides=(1, 1)),
    "strided max pool": lambda x: max_pool(x, 3, 2, ((1, 1), (1, 1))),
    "square pool": layers.square_pool,
    "l2 pool": lambda x: layers.l2_pool(x, 2, 1),
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "leaky relu": lambda x: jax.nn.leaky_relu(x, jnp.array([0.2, -1.5, 0.5])),
    "group sort": lambda x: layers.group_sort(x, 3),
    "householder": lambda x: layers.householder(x[..., :2], jnp.array([0.7])),
    "soft threshold": RobustBlock(3, 2, reduce="orthogonal", shrink=0.2, rngs=nnx.Rngs(2)),
    "batch norm": nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", every(2, NONLINEAR))
def test_slopes_between_points_stay_below_the_bound(name):
    """Check the Jacobian at many points, also at peaks, where pooling is steepest."""
    function, worst = NONLINEAR[name], 0.0
    jacobian = jax.jit(jax.jacobian(lambda x: function(x).ravel()))
    for seed in range(12):
        x = jax.random.normal(jax.random.key(seed), (1, *SIZE, 3))
        x = x.at[0, 2, 3, :].set(9.0) if seed % 2 else x
        matrix = np.asarray(jacobian(x), np.float64)
        worst = max(worst, np.linalg.norm(matrix.reshape(len(matrix), -1), 2))
    bound = report(function, (*SIZE, 3)).bound
    assert worst <= bound * (1 + 1e-5)
    assert bound <= 1.6 * worst


UNKNOWN = {
    "attention": (lambda x: x.reshape(1, -1, 3) @ x.reshape(1, -1, 3).swapaxes(1, 2), "attention"),
    "softmax": (lambda x: jax.nn.softmax(x), "exp"),
    "gate": (lambda x: x * x.mean((1, 2, 3), keepdims=True), "attention"),
    "square": (lambda x: x**2, "no rule"),
    "root": (jnp.sqrt, "sqrt"),
    "inverse": (lambda x: 1 / (1 + x), "division"),
    "gelu": (lambda x: x + jax.nn.gelu(x), "slope"),
    "step": (lambda x: jnp.where(x > 0.5, 1.0, 0.0), ""),
    "rounding": (lambda x: x.astype(jnp.int32).astype(jnp.float32), "integers"),
    "padded with the image": (
        lambda x: jax.lax.pad(jnp.zeros((3, 3)), x[0, 0, 0, 0], ((1, 1, 0), (1, 1, 0))),
        "setting",
    ),
    "not a number": (lambda x: x * jnp.nan, "not finite"),
    "dilated window": (
        lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", None, (1, 2, 2, 1)),
        "dilated",
    ),
    "loop": (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: 2 * y, x), ""),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_operations_without_a_rule_have_an_infinite_bound_and_a_reason(name):
    function, reason = UNKNOWN[name]
    found = report(function, (*SIZE, 3))
    assert found.bound == math.inf
    assert any(row.upper == math.inf and reason in row.method for row in found.rows)
    assert "inf" in str(found)
    assert not any(math.isnan(row.upper) for row in found.rows)


def test_another_function_of_a_known_name_has_no_rule():
    @jax.jit
    def soft_threshold(x):
        return 100 * x

    assert report(soft_threshold, (*SIZE, 3)).bound == pytest.approx(100)


def test_a_rule_that_understates_is_detected_by_the_lower_bound(monkeypatch):
    """The report checks its bounds by power iteration: a rule that understates is detected."""
    from jaxiqa.lipschitz import network
    from jaxiqa.lipschitz.rules import Gain

    monkeypatch.setitem(network.RULES, "conv_general_dilated", lambda op: Gain(0.1, "wrong", False, linear=True))
    with pytest.raises(ArithmeticError, match=r"the bound 0\.1"):
        report(LINEAR["conv"], (*SIZE, 3))


@pytest.fixture(scope="module")
def models():
    plain = build("resnet18", width=8)
    plain.calibrate(k=10.0, b=50.0, score_range=(0.0, 100.0))
    hardened = nnx.clone(plain)
    harden(hardened, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    return [(model, report(model, (32, 40, 3), lower=False)) for model in (plain, hardened)]


@pytest.mark.slow
def test_the_report_uses_every_weight_of_a_metric(models):
    for model, found in models:
        names = {row.name for row in found.rows}
        weights = [
            ".".join(map(str, path[:-1]))
            for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))
            if path[-1] == "kernel"
        ]
        unused = {"regr6", "regr7"}  # outputs for training only, not for the score
        missing = [name for name in weights if not any(name.startswith(row) or row.startswith(name) for row in names)]
        assert set(missing) <= unused, missing
        assert 1 < found.bound < math.inf


@pytest.mark.slow
def test_slopes_of_a_metric_stay_below_its_bound(models):
    images = jax.random.uniform(jax.random.key(0), (4, 32, 40, 3))
    for model, found in models:
        gradient = jax.jit(jax.grad(lambda x, model=model: model(x).sum()))(images)
        slopes = jnp.linalg.norm(gradient.reshape(4, -1), axis=1)
        assert 0 < float(slopes.max()) <= found.bound


@pytest.mark.slow
def test_mobilenet_has_a_finite_bound():
    found = report(build("mobilenet_v2", width=8), (32, 32, 3), lower=False)
    assert math.isfinite(found.bound)
    assert sum("depthwise" in row.name for row in found.rows) == 17


@pytest.mark.slow
def test_a_report_prints_saves_and_draws(models, tmp_path):
    _, found = models[1]
    text = str(found)
    assert "backbone.stage.robust_block.reduce" in text
    assert f"{found.bound:.6g}" in text.splitlines()[-1]
    found.save_csv(tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rows) + 1
    assert float(rows[-1]["upper"]) == found.bound
    found.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
