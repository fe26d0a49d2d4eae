"""Training that diverges without a NaN is stopped, and healthy training is not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxiqa import models
from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant
from jaxiqa.train.divergence import _largest_and_squares, check_scores, check_weights, differ, rms, unjudged
from jaxiqa.train.examples import Examples
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.loop import fit
from jaxiqa.train.state import split_model


def test_the_root_mean_square_neither_overflows_nor_hides_nan():
    assert float(rms({"a": jnp.full(4, 1e31), "b": jnp.zeros(12)})) == pytest.approx(5e30, rel=1e-5)
    assert not np.isfinite(float(rms([jnp.array([1.0, jnp.nan])])))
    assert not np.isfinite(float(rms([jnp.array([1.0, -jnp.inf])])))
    assert float(rms([jnp.zeros(3)])) == 0


@pytest.mark.parametrize("scale", [1e-34, 1.0, 1e37])
def test_the_root_mean_square_equals_numpys_over_all_shapes_and_types(scale):
    random = np.random.default_rng(0)
    arrays = [scale * random.normal(size=shape).astype(np.float32) for shape in ((), (1,), (0,), (3, 1, 2), (40,))]
    arrays[-1] *= 1e-3
    found = [jnp.asarray(arrays[0], jnp.bfloat16), *map(jnp.asarray, arrays[1:])]
    numbers = np.concatenate([np.asarray(x, np.float64).ravel() for x in found])
    assert rms(found) == pytest.approx(np.sqrt(np.mean(numbers**2)), rel=1e-5, abs=0)


def test_the_weights_of_a_deep_network_are_one_program_per_shape():
    """As one program, the 706 arrays of KonCept512 took XLA minutes."""
    before = _largest_and_squares._cache_size()
    tree = [jnp.full((3, side), 2.0) for side in (11, 12, 13) for _ in range(200)]
    assert rms(tree) == pytest.approx(2.0)
    assert _largest_and_squares._cache_size() - before == 3


@pytest.mark.parametrize(("factor", "healthy"), [(1.0, True), (50.0, True), (2e3, False), (1e31, False)])
def test_exploded_weights_are_reported_with_the_step(factor, healthy):
    params, stats = {"kernel": jax.random.normal(jax.random.key(0), (3, 8))}, {"mean": jnp.ones(8)}
    now = {"kernel": params["kernel"] * factor}
    if healthy:
        check_weights(float(rms(params)), now, stats, 7)
    else:
        with pytest.raises(FloatingPointError, match=r"diverged: at step 7 the weights' root mean square is .*start"):
            check_weights(float(rms(params)), now, stats, 7)


def test_non_finite_batch_norm_statistics_are_detected():
    params = {"kernel": jnp.ones(3)}
    check_weights(1.0, params, {}, 1)
    with pytest.raises(FloatingPointError, match="step 5 statistics of batch norms"):
        check_weights(1.0, params, {"var": jnp.array([1.0, jnp.inf])}, 5)


def test_unusable_scores_are_reported_with_a_reason():
    assert unjudged(np.array([-30.0, 0.1, 200.0])) is None
    assert unjudged(np.array([5.88e3, -5.88e3, 0.0])) is None  # seen in healthy first epochs at learning_rate=3e-2
    assert unjudged(np.array([np.nan, np.inf, 1.0])) == "2 of 3 validation scores are not finite"
    assert unjudged(np.array([0.0, 1e12], np.float32)) == "validation scores spread by 5e+11"
    assert unjudged(np.full(5, 3.0)) == "all validation scores are equal"
    assert not differ(np.zeros(5))
    assert differ(np.array([0.0, 1e-3]))


@pytest.mark.parametrize("scores", [[0.0, 1e12], [np.nan, 1.0], [2.0, 2.0]])
def test_unusable_scores_are_accepted_for_a_limited_number_of_steps(scores):
    scores = np.array(scores)
    check_scores(scores, 999, 5000)
    with pytest.raises(FloatingPointError, match=r"no epoch can be judged; at step 30 .*validation scores"):
        check_scores(scores, 30, 30)
    if np.ptp(scores) == 0:  # the learning rate warms up
        check_scores(scores, 4000, 5000)
    else:
        with pytest.raises(FloatingPointError, match="at step 4000"):
            check_scores(scores, 4000, 5000)
    check_scores(np.array([1.0, 2.0]), 5000, 5000)


@pytest.mark.parametrize(("start", "now"), [(0.0, 0.3), (1e-9, 0.5), (1e-4, 2.0)])
def test_weights_that_start_at_zero_may_grow(start, now):
    check_weights(start, {"bias": jnp.full(7, now)}, {}, 3)
    with pytest.raises(FloatingPointError, match="at step 3 the weights' root mean square is 1e\\+06"):
        check_weights(start, {"bias": jnp.full(7, 1e6)}, {}, 3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e20])
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_non_finite_number_is_enough(value, place):
    params = {"first": jnp.ones((3, 5)), "middle": jnp.ones((2, 3, 4)), "last": jnp.ones(1)}
    params[place] = params[place].at[..., -1].set(value)
    with pytest.raises(FloatingPointError, match="at step 11 the weights"):
        check_weights(1.0, params, {}, 11)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_large_half_precision_arrays_do_not_overflow(dtype):
    params = {"kernel": jnp.full((300, 301), 2.0, dtype), "none": jnp.zeros((0, 3), dtype), "zero": jnp.zeros(5, dtype)}
    assert float(rms(params)) == pytest.approx(2.0, rel=1e-3)
    check_weights(2.0, params, {}, 1)
    assert float(rms({"zero": jnp.zeros(5, dtype)})) == 0


def train(folder, *, rate, edit=lambda path, leaf: leaf, count=8, batch=8, epochs=3, loss="norm_in_norm", levels=None):
    """Train a small metric from scratch; ``edit`` changes the initial parameters."""
    random = np.random.default_rng(0)
    images = (random.uniform(size=(count, 1, 1, 1)) * random.uniform(size=(count, 20, 24, 3))).astype(np.float32)
    mos = (100 * images.mean((1, 2, 3))).astype(np.float32)
    labels = mos if levels is None else np.round(mos / mos.max() * levels).astype(np.float32)
    parts = split_model(models.build("resnet18", width=8, input_size=None))
    parts = replace(parts, params=jax.tree_util.tree_map_with_path(edit, parts.params))
    return fit(
        parts,
        optax.adam(rate),
        Examples(lambda i, view: {"image": images[i], "mos": labels[i]}, labels),
        Examples(lambda i, view: {"image": images[i], "mos": mos[i]}, mos),
        epochs=epochs, batch_size=batch, loss=loss, flip=True, masks={}, seed=0, folder=folder,
        devices=jax.local_devices()[:1],
    )  # fmt: skip


def last_layers_are_zero(path, leaf):
    return leaf * 0 if path[0].key.startswith("regr") else leaf


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.1, "epochs": 6},  # one step an epoch: spreads of 1e4 to 1e7 until batch-norm statistics settle
        {"rate": 1e-3, "edit": last_layers_are_zero, "loss": "plcc"},
        {"rate": 3e-2, "edit": last_layers_are_zero, "loss": "mse"},
        {"rate": 1e-2, "batch": 2, "levels": 1, "epochs": 1},  # many batches of equal labels
        {"rate": 1e-2, "edit": lambda path, leaf: leaf * 0.1 if path[-1].key == "kernel" else leaf, "count": 24},
    ],
)
def test_a_healthy_training_is_never_stopped(options, tmp_path):
    result = train(tmp_path, **options)
    assert result.best_epoch >= 1
    assert np.isfinite(float(rms(result.params)))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["norm_in_norm", "mse"])
@pytest.mark.parametrize("rate", [1e6, 1e20])
def test_a_diverging_training_is_stopped_in_its_first_epoch(rate, loss, tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step [1-4]\b"):
        train(tmp_path, rate=rate, loss=loss, count=16, batch=4)


@pytest.mark.slow
def test_a_metric_with_constant_scores_is_an_error(tmp_path):
    with pytest.raises(
        FloatingPointError, match="training failed: no epoch can be judged; at step 3 all validation scores are equal"
    ):
        train(tmp_path, rate=1e-3, edit=lambda path, leaf: leaf * 0)


@pytest.mark.slow
def test_a_training_that_learns_nothing_says_how_long_it_was(tmp_path):
    data = Data("builtin", options={"size": (64, 80), "train": 12, "val": 8, "test": 4})
    variants = {"base": Variant(Training(epochs=3, batch_size=4, learning_rate=((0, 1e-4), (2, 1e-5))))}
    model = Model(metric="brisque", options={"vectors": 5})
    experiment = Experiment("short", data, model, variants, Evaluation(data, {}), workdir=str(tmp_path))
    splits = load_data(experiment, ["base"])
    message = (
        r"base seed 0: raw scores fall as human scores rise .*; the metric has learnt nothing; change "
        r"variants\.base\.training \(learning_rate=0\.0001 at first, epochs=3: 9 steps\), and delete .*seed0"
    )
    with pytest.raises(FloatingPointError, match=message):
        train_variant(experiment, "base", 0, splits, {}, {})
