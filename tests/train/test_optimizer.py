"""Rates over time and per group, weight decay, and the moving average, against PyTorch's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxiqa.config import Training
from jaxiqa.models import MODELS
from jaxiqa.train.optimizer import averaged, learning_rates, make_optimizer, weight_average
from jaxiqa.train.recipes import completed

PER_EPOCH = 7


def rates(training, epochs):
    head, backbone = learning_rates(training, PER_EPOCH)
    steps = np.arange(epochs * PER_EPOCH)
    return np.array([[float(head(s)), float(backbone(s))] for s in steps]), steps


def test_steps_fall_after_every_so_many_epochs():
    training = Training(10, learning_rate=0.5, backbone_factor=0.1, schedule="steps", decay_every=3, decay_factor=0.2)
    found, steps = rates(training, 10)
    np.testing.assert_allclose(found[:, 0], 0.5 * 0.2 ** (steps // (3 * PER_EPOCH)), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], 0.1 * found[:, 0], rtol=1e-6)


@pytest.mark.parametrize("half", [None, 4])
def test_a_cosine_falls_to_zero_and_turns(half):
    training = Training(8, learning_rate=2.0, backbone_factor=1.0, schedule="cosine", decay_every=half)
    found, steps = rates(training, 8)
    np.testing.assert_allclose(found[:, 0], 1 + np.cos(np.pi * steps / PER_EPOCH / (half or 8)), atol=1e-6)


def test_a_warm_up_rises_to_the_rate():
    training = Training(4, learning_rate=1.0, backbone_factor=1.0, schedule="steps", warmup=1.5)
    found, _ = rates(training, 4)
    np.testing.assert_allclose(found[:10, 0], np.arange(1, 11) / 10.5, rtol=1e-6)
    np.testing.assert_allclose(found[11:, 0], 1.0)


PUBLISHED = {
    "linearity": {0: (1e-4, 1e-5), 9: (1e-4, 1e-5), 10: (1e-5, 1e-6), 29: (1e-6, 1e-7)},
    "koncept512": {0: (1e-4, 1e-4), 39: (1e-4, 1e-4), 40: (5e-5, 5e-5), 60: (1e-5, 1e-5), 69: (1e-5, 1e-5)},
    "tres": {0: (2e-5, 2e-5), 1: (2e-6, 2e-6), 2: (2e-7, 2e-7)},
    "hyperiqa": {0: (2e-4, 2e-5), 6: (2e-4, 2e-5), 7: (2e-5, 2e-5), 10: (2e-6, 2e-5), 15: (2e-7, 2e-5)},
    "metaiqa": {0: (1e-4, 1e-4), 9: (1e-4, 1e-4), 10: (8e-5, 8e-5), 19: (1e-4 * 0.8**10,) * 2},
    "maniqa": {0: (1e-5, 1e-5), 25: (5e-6, 5e-6), 50: (0.0, 0.0), 75: (5e-6, 5e-6), 100: (1e-5, 1e-5)},
    "fpr": {0: (1e-4, 1e-4), 99: (1e-4, 1e-4)},
}
"""Metric -> epoch -> rates of head and backbone at its start, worked out by hand from the published codes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rates_of_published_recipes(name):
    head, backbone = learning_rates(completed(Training(), MODELS[name].metric.recipe), PER_EPOCH)
    for epoch, expected in PUBLISHED[name].items():
        found = float(head(epoch * PER_EPOCH)), float(backbone(epoch * PER_EPOCH))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


def test_weight_decay_is_added_to_the_gradient_before_adam():
    """As `torch.optim.Adam(weight_decay=...)`, not AdamW: written out in NumPy."""
    params = {"head": {"kernel": jnp.array([3.0, -2.0])}}
    training = Training(1, learning_rate=0.1, backbone_factor=1.0, weight_decay=0.5)
    optimizer = make_optimizer(params, training, steps_per_epoch=100)
    state, w, m, v = optimizer.init(params), np.array([3.0, -2.0]), 0.0, 0.0
    for t in range(1, 5):
        gradient = np.array([0.3, -0.1]) * t
        updates, state = optimizer.update({"head": {"kernel": jnp.asarray(gradient)}}, state, params)
        params = optax.apply_updates(params, updates)
        total = gradient + 0.5 * w
        m, v = 0.9 * m + 0.1 * total, 0.999 * v + 0.001 * total**2
        w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(params["head"]["kernel"], w, rtol=1e-5)


def test_only_pretrained_stages_have_the_rate_of_the_backbone():
    params = {
        "backbone": {"stage": {"a": {"w": jnp.zeros(1)}, "block": {"w": jnp.zeros(1)}}},
        "fc": {"w": jnp.zeros(1)},
    }
    training = Training(1, learning_rate=1.0, backbone_factor=0.25)
    optimizer = make_optimizer(params, training, steps_per_epoch=1, pretrained=frozenset({"a"}))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    moved = {name: float(leaf[0]) for name, leaf in (
        ("a", updates["backbone"]["stage"]["a"]["w"]),
        ("block", updates["backbone"]["stage"]["block"]["w"]),
        ("fc", updates["fc"]["w"]),
    )}  # fmt: skip
    assert moved == pytest.approx({"a": -0.25, "block": -1.0, "fc": -1.0}, rel=1e-4)


def test_the_average_follows_its_formula_and_changes_no_update():
    plain, kept = optax.sgd(0.1), optax.chain(optax.sgd(0.1), weight_average(0.9))
    params = {"w": jnp.array([1.0, 2.0])}
    state, other = kept.init(params), plain.init(params)
    expected = np.array([1.0, 2.0])
    for t in range(1, 30):
        gradient = {"w": jnp.sin(jnp.arange(2.0) + t)}
        updates, state = kept.update(gradient, state, params)
        same, other = plain.update(gradient, other, params)
        np.testing.assert_array_equal(updates["w"], same["w"])
        params = optax.apply_updates(params, updates)
        d = min(0.9, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * np.asarray(params["w"])
    np.testing.assert_allclose(averaged(state)["w"], expected, rtol=1e-5)
    assert averaged(other) is None
