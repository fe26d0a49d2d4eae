"""Options of a training, each with what it must not change."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from quick import every

from jaxiqa import models
from jaxiqa.config import NormPenalty, Training
from jaxiqa.data.pipeline import View
from jaxiqa.defenses import adversarial_batch
from jaxiqa.models.metric import Metric
from jaxiqa.nn.conv import conv
from jaxiqa.nn.dropout import Dropout
from jaxiqa.nn.stages import Stages
from jaxiqa.train.examples import Examples
from jaxiqa.train.loop import _end_epoch, fit
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.penalties import make_penalty
from jaxiqa.train.state import TrainState, split_model, start
from jaxiqa.train.step import DEFAULTS, make_step


class Tiny(Metric):
    """Two convolutions and a linear map: no batch norm, so that parts of a batch do not see each other."""

    loss_weights = {"low": 0.5, "score": 1.0}  # noqa: RUF012

    def __init__(self, *, rate=0.0, rngs):
        stages = {"a": (conv(3, 6, 3, stride=2, rngs=rngs), 6), "b": (conv(6, 8, 3, stride=2, rngs=rngs), 8)}
        self.backbone = Stages(stages)
        self.dropout = Dropout(rate)
        self.out = nnx.Linear(8, 2, rngs=rngs)
        self.keep(rate=rate)

    def item_outputs(self, pixels):
        x = self.backbone.run(pixels)[0]
        low, score = self.out(self.dropout(jnp.tanh(x).mean((1, 2)))).T
        return {"low": low, "score": score}

    outputs = item_outputs


BATCH = {
    "image": np.random.default_rng(0).uniform(size=(8, 20, 24, 3)).astype(np.float32),
    "mos": np.random.default_rng(1).normal(size=8).astype(np.float32),
}


def gradients(parts, *, loss="norm_in_norm", devices=1, constants=(), **options):
    """One step of plain descent: the gradients, the value and the statistics after it."""
    step = make_step(parts, LOSSES[loss], optax.sgd(1.0), axis_name=AXIS, **options)
    step = data_parallel(step, backend="shard_map", devices=jax.local_devices()[:devices])
    state = start(parts, optax.sgd(1.0))
    before = jax.tree.map(np.array, state.params)
    held = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS, **dict(constants)}
    state, value = step(state, held, BATCH)
    return jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params), float(value)


def close(a, b, rtol=2e-5, atol=2e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


PENALTY = {"penalty": make_penalty(Training(norm_penalty=NormPenalty(0.3)))}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("count", every(2, [2, 8]))
def test_accumulation_does_not_change_the_gradient(loss, count):
    """Also for losses that compare the images of a batch with one another."""
    parts = split_model(Tiny(rngs=nnx.Rngs(0)))
    close(gradients(parts, loss=loss), gradients(parts, loss=loss, accumulate=count))


@pytest.mark.slow
def test_accumulation_with_a_penalty_attacked_images_dropout_and_two_devices():
    def attack(score_fn, images, key):
        return jnp.clip(images + 0.05 * jnp.sign(jax.grad(lambda x: score_fn(x).sum())(images)), 0, 1)

    def augment(score_fn, images, mos, keys, *, gather):
        return adversarial_batch(attack, score_fn, images, mos, keys, low=-2.0, high=2.0, gather=gather)

    parts = split_model(Tiny(rate=0.5, rngs=nnx.Rngs(0)))
    constants = {**PENALTY, "augment": jax.tree_util.Partial(augment)}
    whole = gradients(parts, constants=constants)
    close(whole, gradients(parts, constants=constants, accumulate=4))
    assert not np.allclose(whole[1], gradients(parts, accumulate=4)[1], rtol=1e-3)


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_number_of_devices():
    parts = split_model(Tiny(rate=0.5, rngs=nnx.Rngs(0)))
    one = gradients(parts)
    close(one, gradients(parts, devices=2))
    close(one, gradients(parts, devices=2, accumulate=2))
    none = gradients(split_model(Tiny(rate=0.0, rngs=nnx.Rngs(0))))
    assert not np.allclose(one[1], none[1], rtol=1e-3)
    other = gradients(parts, constants={"seed": 1})
    assert not np.allclose(one[1], other[1], rtol=1e-3)


def hardened():
    model = models.build("resnet18", width=8)
    models.harden(model, "after:layer3", mid=8, rngs=nnx.Rngs(1))
    return model


@pytest.mark.slow
def test_rematerialisation_changes_neither_gradients_nor_statistics():
    model = hardened()
    plain, again = (gradients(split_model(model, remat=remat)) for remat in (False, True))
    close(plain, again, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_rematerialisation_needs_less_memory():
    parts = [split_model(models.build("resnet18", width=16), remat=remat) for remat in (False, True)]
    images = jnp.zeros((8, 128, 128, 3))

    def temporary(parts):
        step = make_step(parts, LOSSES["mse"], optax.sgd(1.0))
        held = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}
        compiled = (
            jax.jit(step).lower(start(parts, optax.sgd(1.0)), held, {"image": images, "mos": jnp.zeros(8)}).compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    plain, again = map(temporary, parts)
    assert again < 0.8 * plain


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_orthogonal_maps_in_float32():
    model = hardened()
    parts = split_model(model, precision="bfloat16")
    step = make_step(parts, LOSSES["mse"], optax.sgd(1.0))
    held = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}
    state = start(parts, optax.sgd(1.0))
    after, _ = jax.jit(step)(state, held, BATCH)
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.batch_stats))} == {np.dtype("float32")}
    text = str(jax.make_jaxpr(step)(state, held, BATCH))
    assert "bf16" in text
    assert not any("fft" in line and "bf16" in line for line in text.splitlines())
    wide, narrow = (gradients(replace(parts, training=kind.training)) for kind in (split_model(model), parts))
    assert narrow[1] == pytest.approx(wide[1], rel=0.05)
    a, b = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree[0])]) for tree in (wide, narrow))
    assert 0 < np.linalg.norm(a - b) < 0.5 * np.linalg.norm(a)
    assert "bf16" not in str(
        jax.make_jaxpr(make_step(split_model(model), LOSSES["mse"], optax.sgd(1.0)))(state, held, BATCH)
    )


def source(crops=0, **options):
    random = np.random.default_rng(0)
    images = random.uniform(size=(16, 20, 24, 3)).astype(np.float32)
    mos = (100 * images.mean((1, 2, 3))).astype(np.float32)

    def fetch(index, view: View):
        image = images[index]
        if view.places:
            top, left = (int(place * free) for place, free in zip(view.places[0], (9, 9), strict=True))
            image = image[top : top + 12, left : left + 16]
        return {"image": image, "mos": mos[index]}

    return Examples(fetch, mos, crops=crops, **options)


def train(folder, *, epochs=2, training=None, crops=0, stop=None, seen=None, **options):
    parts = split_model(Tiny(rate=0.2, rngs=nnx.Rngs(0)))
    training = training or Training(learning_rate=1e-2, backbone_factor=1.0)
    optimizer = make_optimizer(parts.params, replace(training, epochs=epochs), steps_per_epoch=4)

    def progress(step, total, loss, best):
        if seen is not None:
            seen.append((step, total, loss, best))
        if step == stop:
            raise KeyboardInterrupt

    options = {"loss": "mse", "flip": "both", "masks": {}, "seed": 0, "batch_size": 4, **options}
    return fit(
        parts, optimizer, source(crops), source(), epochs=epochs, folder=folder, progress=progress, **options
    ), parts  # fmt: skip


@pytest.mark.slow
def test_the_moving_average_is_what_is_validated_and_kept(tmp_path):
    training = Training(learning_rate=1e-2, backbone_factor=1.0, average=0.9)
    averaged, parts = train(tmp_path / "a", epochs=1, training=training)
    plain, _ = train(tmp_path / "b", epochs=1)
    a, b, first = (jax.tree.leaves(tree) for tree in (averaged.params, plain.params, parts.params))
    for x, y, start_value in zip(a, b, first, strict=True):
        assert not np.array_equal(x, y)
        assert np.linalg.norm(x - start_value) < np.linalg.norm(y - start_value)  # it lags behind


@pytest.mark.slow
def test_progress_has_the_loss_of_the_step_before_and_the_best_correlation(tmp_path):
    seen = []
    result, _ = train(tmp_path, seen=seen)
    steps, totals, losses, best = zip(*seen, strict=True)
    assert steps == tuple(range(1, 9))
    assert set(totals) == {8}
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1:]).all()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[1:5]) == pytest.approx(rows[0]["loss"], rel=1e-6)
    assert best[:4] == (-np.inf,) * 4
    assert best[4:] == (pytest.approx(rows[0]["validation_srocc"]),) * 4
    assert result.best_correlation >= best[-1]


@pytest.mark.slow
@pytest.mark.parametrize("crops", every(2, [3, 0]))
def test_a_killed_training_with_every_option_resumes_exactly(crops, tmp_path):
    training = Training(
        learning_rate=((0, 1e-2), (1, 5e-3)), backbone_factor=0.5, schedule="cosine", warmup=0.5, weight_decay=1e-3,
        average=0.9,
    )  # fmt: skip
    options = {"training": training, "crops": crops, "accumulate": 2, "select": "sum"}
    whole, _ = train(tmp_path / "whole", **options)
    steps = 4 * max(crops, 1)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", stop=steps + 1, **options)
    resumed, _ = train(tmp_path / "killed", **options)
    assert resumed.best_correlation == whole.best_correlation
    for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("select", ["srocc", "plcc", "sum"])
def test_the_chosen_correlation_decides_the_best_epoch(select, tmp_path):
    import json

    result, _ = train(tmp_path, epochs=4, select=select)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = ("srocc", "plcc") if select == "sum" else (select,)
    values = [sum(row[f"validation_{name}"] for name in names) for row in rows]
    assert result.best_epoch == 1 + int(np.argmax(values))
    assert result.best_correlation == pytest.approx(max(values), abs=1e-6)


@pytest.mark.parametrize(("select", "kept"), [("last", 2), ("srocc", 1)])
def test_the_last_epoch_is_kept_if_that_is_chosen(select, kept):
    zero, one = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    state = TrainState(
        jnp.int32(8), one, {}, (), jnp.float32(1), zero, {}, jnp.float32(0.9), jnp.int32(1)
    )  # its first epoch was better
    row = {"epoch": 2, "validation_srocc": 0.5, "validation_plcc": 0.5}
    ended = _end_epoch(state, row, one, select)
    assert int(ended.best_epoch) == kept
    assert float(ended.best_params["w"][0]) == kept - 1
    unjudged = _end_epoch(state, row | {"validation_srocc": None}, one, select)
    assert int(unjudged.best_epoch) == 1


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("standardised", [-1.2247, 0.0, 1.2247]), ("unit", [0.0, 0.5, 1.0]), ("percent", [0.0, 50.0, 100.0])],
)
def test_labels_have_their_unit(unit, expected):
    examples = replace(source(unit=unit), mos=np.array([20.0, 30.0, 40.0]))
    np.testing.assert_allclose(examples.labels(examples.mos), expected, atol=1e-4)
    assert np.isfinite(replace(examples, mos=np.array([3.0, 3.0])).labels(np.array([3.0]))).all()
