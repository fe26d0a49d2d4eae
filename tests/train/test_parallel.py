"""Two devices give the results of one. The test process has two CPU devices (see conftest).

The comparison runs in float64. Adam divides a gradient by its own size. A gradient that is zero except for rounding
moves its parameter by a full step in a random direction, for any number of devices. A wrong mean is wrong in float64
too.
"""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import models
from jaxiqa.config import Training
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.state import split_model, start
from jaxiqa.train.step import DEFAULTS, make_step


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def parts(float64):
    model = models.build("resnet18", width=8)
    models.harden(model, "after:layer3", mid=8, rngs=nnx.Rngs(1))
    parts = split_model(model)
    wide = {name: jax.tree.map(lambda x: x.astype(float), getattr(parts, name)) for name in ("params", "batch_stats")}
    return replace(parts, **wide)


def batches(count=10):
    random = np.random.default_rng(0)
    shape = (16, 48, 64, 3)
    return [{"image": random.uniform(size=shape), "mos": random.normal(size=16)} for _ in range(count)]


def train(parts, backend, devices, loss="norm_in_norm"):
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-4, backbone_factor=0.1), steps_per_epoch=1)
    step = make_step(parts, LOSSES[loss], optimizer, axis_name=AXIS)
    step = data_parallel(step, backend=backend, devices=jax.local_devices()[:devices])
    state, losses = start(parts, optimizer), []
    for batch in batches():
        state, value = step(state, {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}, batch)
        losses.append(float(value))
    return state, losses


@pytest.fixture(scope="module")
def one(parts):
    return train(parts, "pmap", 1)


@pytest.mark.slow
def test_eight_devices_equal_one(parts):
    """With chex's fake devices, of which there may be more than this machine has."""
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-4, backbone_factor=0.1), steps_per_epoch=1)
    step = make_step(parts, LOSSES["norm_in_norm"], optimizer, axis_name=AXIS)
    state, constants = start(parts, optimizer), {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}
    batch = batches(1)[0]

    def after(count):
        shares = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)
        with chex.fake_pmap(jit_result=True):
            return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0))(state, constants, shares)

    (one, loss), (eight, losses) = after(1), after(8)
    np.testing.assert_allclose(losses, np.full(8, loss[0]), atol=1e-12)
    chex.assert_trees_all_close(eight.params, jax.tree.map(lambda x: x.repeat(8, 0), one.params), atol=1e-9)
    moved = jax.tree.map(lambda new, old: float(jnp.abs(new[0] - old).max()), one.params, parts.params)
    assert max(jax.tree.leaves(moved)) > 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_two_devices_equal_one_after_ten_steps(parts, one, backend):
    assert len(jax.local_devices()) >= 2
    state, losses = train(parts, backend, 2)
    np.testing.assert_allclose(losses, one[1], atol=1e-5)
    for name in ("params", "batch_stats"):
        ours, theirs = getattr(state, name), getattr(one[0], name)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
            assert a.dtype == np.float64
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    moved = [
        float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (state.params, parts.params)), strict=True)
    ]
    assert max(moved) > 5e-4


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_a_step_is_compiled_once_for_state_from_the_host(backend):
    compiled = []
    devices = jax.local_devices()[:2]
    step = data_parallel(
        lambda s, c, b: (s + c * jax.lax.pmean(b.sum(), AXIS), s.sum()), backend=backend, devices=devices
    )
    state, constants = jnp.zeros(3), jnp.full(3, 0.5)
    listen = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    batches = [np.full((2, 2), number, np.float32) for number in range(4)]
    state, _ = jax.block_until_ready(step(state, constants, batches[1]))
    jax.monitoring.register_event_duration_secs_listener(listen)
    state, _ = step(state, constants, batches[2])
    moved = np.asarray(state)
    assert not compiled
    jax.block_until_ready(step(jax.device_put(moved, devices[0]), constants, batches[3]))
    assert not compiled
    np.testing.assert_allclose(moved, 0.5 * (2 * 1 + 2 * 2))


def test_a_batch_that_cannot_be_divided_is_refused():
    step = data_parallel(lambda state, constants, batch: (state, batch), devices=jax.local_devices()[:2])
    with pytest.raises(ValueError, match="multiple of 2"):
        step({}, {}, {"mos": jnp.zeros(3)})


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(ValueError, match="'pmap', 'shard_map'"):
        data_parallel(lambda *a: a, backend="jit")


def shapes_of_a_step(parts, optimizer, **changes):
    step = make_step(parts, LOSSES["mse"], optimizer)
    constants = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS, **changes}
    return jax.eval_shape(step, start(parts, optimizer), constants, batches(1)[0])


@pytest.mark.slow
def test_a_step_refuses_an_augmentation_that_loses_labels(parts):
    shorter = jax.tree_util.Partial(lambda score_fn, images, mos, keys, *, gather: (images, mos[1:]))
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-4, backbone_factor=0.1), steps_per_epoch=1)
    with pytest.raises(ValueError, match="assert_equal_shape_prefix"):
        shapes_of_a_step(parts, optimizer, augment=shorter)


@pytest.mark.slow
def test_a_step_refuses_masks_that_change_the_shape_of_parameters(parts):
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-4, backbone_factor=0.1), steps_per_epoch=1)
    masks = {"regression": {"bias": jnp.ones((3, 1))}}
    with pytest.raises(AssertionError, match="assert_trees_all_equal_shapes_and_dtypes"):
        shapes_of_a_step(parts, optimizer, masks=masks)
