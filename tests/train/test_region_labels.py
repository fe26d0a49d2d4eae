"""Training on labels of regions: what enters the loss, in which unit, and what is refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxiqa.config import Adversarial, Data, Evaluation, Experiment, Model, Training, Variant
from jaxiqa.data.pipeline import View
from jaxiqa.data.regions import Regions
from jaxiqa.data.split import Split
from jaxiqa.models.metric import Metric
from jaxiqa.models.paq2piq import PaQ2PiQ
from jaxiqa.nn.dropout import Dropout
from jaxiqa.train.examples import crop_source, image_source
from jaxiqa.train.experiment import train_variant
from jaxiqa.train.loop import fit
from jaxiqa.train.losses import mse
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.startup import check_splits
from jaxiqa.train.state import merge_model, split_model, start
from jaxiqa.train.step import DEFAULTS, make_step

SIZE = (24, 40)


class Means(Metric):
    """The mean of a map over the image, and over each box: a mirrored image with mirrored boxes has the same scores."""

    regional = True
    total_loss = PaQ2PiQ.total_loss

    def __init__(self, *, rngs):
        self.out = nnx.Linear(3, 1, rngs=rngs)
        self.keep()

    def outputs(self, images):
        return {"score": jnp.tanh(self.out(images)).mean((1, 2, 3))}

    def region_outputs(self, images, boxes):
        rows, columns = jnp.arange(images.shape[1])[:, None] + 0.5, jnp.arange(images.shape[2]) + 0.5
        left, top, right, bottom = jnp.moveaxis(boxes[..., None, None], 2, 0)
        inside = (left < columns) & (columns < right) & (top < rows) & (rows < bottom)
        maps = jnp.tanh(self.out(images))[:, None, ..., 0]
        regions = jnp.where(inside, maps, 0).sum((2, 3)) / inside.sum((2, 3))
        return {"score": maps.mean((1, 2, 3)), "regions": regions}


class Plain(Means):
    regional = False


def split(count=8):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *SIZE, 3), np.uint8)
    images[:, 12:] //= 2  # so that a region that is not flipped with its image has another mean
    images[:, :, 20:] //= 3
    low, high = random.integers(0, (20, 12), (count, 3, 2)), random.integers((21, 13), (41, 25), (count, 3, 2))
    boxes = np.concatenate([low, high], axis=-1) / (40, 24, 40, 24)
    labels = random.uniform(0, 100, (count, 4)).astype(np.float32)
    regions = Regions(boxes, labels[:, 1:])
    names = tuple(map(str, range(count)))
    return Split("made/train", names, labels[:, 0], (0.0, 100.0), images.__getitem__, regions=regions)


def batch():
    made = split()
    fetch = image_source(made, None).fetch
    found = [fetch(index, View()) for index in range(len(made))]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def one_step(metric, given, *, devices=1, constants=(), **options):
    """One step of plain descent: the loss and the gradients."""
    parts = split_model(metric)
    step = make_step(parts, mse, optax.sgd(1.0), axis_name=AXIS, **options)
    step = data_parallel(step, devices=jax.local_devices()[:devices])
    state = start(parts, optax.sgd(1.0))
    before = jax.tree.map(np.array, state.params)
    held = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS, **dict(constants)}
    state, value = step(state, held, given)
    return float(value), jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params)


def without(given):
    return {name: given[name] for name in ("image", "mos")}


def test_the_loss_has_the_labels_of_images_and_regions():
    model, given = Means(rngs=nnx.Rngs(0)), batch()
    value, _ = one_step(model, given)
    maps = np.tanh(given["image"] @ np.asarray(model.out.kernel) + np.asarray(model.out.bias))[..., 0]
    errors = []
    columns = (maps, given["boxes"].astype(int), given["mos"], given["region_mos"])
    for image, boxes, mos, labels in zip(*columns, strict=True):
        errors.append(image.mean() - mos)
        for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
            errors.append(image[top:bottom, left:right].mean() - label)
    assert len(errors) == 32
    assert value == pytest.approx(np.mean(np.square(errors)), rel=1e-5)
    alone, _ = one_step(model, without(given))
    assert alone == pytest.approx(np.mean(np.square(errors[::4])), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"accumulate": 4}, {"devices": 2}, {"devices": 2, "accumulate": 2}])
def test_parts_of_a_batch_and_devices_change_nothing(options):
    model, given = Means(rngs=nnx.Rngs(0)), batch()
    for x, y in zip(*map(jax.tree.leaves, (one_step(model, given), one_step(model, given, **options))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


def test_a_metric_without_scores_of_regions_and_attacked_copies_are_refused():
    given = batch()
    with pytest.raises(ValueError, match="Plain does not train on labels of regions, which the examples have"):
        one_step(Plain(rngs=nnx.Rngs(0)), given)
    one_step(Plain(rngs=nnx.Rngs(0)), without(given))

    def twice(score_fn, images, mos, keys, *, gather):
        return jnp.concatenate([images, images]), jnp.concatenate([mos, mos])

    constants = {"augment": jax.tree_util.Partial(twice)}
    with pytest.raises(ValueError, match="attacked copies of images have no labels of regions"):
        one_step(Means(rngs=nnx.Rngs(0)), given, constants=constants)


@pytest.mark.parametrize("flip", [*(pytest.param(flip, marks=pytest.mark.slow) for flip in (False, True)), "both"])
def test_labels_of_regions_have_the_unit_of_images_and_boxes_are_flipped(flip, tmp_path):
    """The loss of the first step is that of the views as they are, for any flips."""
    made = split()
    parts = split_model(Means(rngs=nnx.Rngs(0)))
    source = image_source(made, None, unit="unit")
    options = {"epochs": 1, "batch_size": 8, "loss": "mse", "masks": {}, "seed": 1, "devices": jax.local_devices()[:1]}
    fit(parts, optax.sgd(0.01), source, source, flip=flip, folder=tmp_path, **options)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    given, low, high = batch(), made.mos.min(), made.mos.max()
    labels = {name: (given[name] - low) / (high - low) for name in ("mos", "region_mos")}
    assert row["loss"] == pytest.approx(one_step(Means(rngs=nnx.Rngs(0)), given | labels)[0], rel=1e-5)


def experiment(metric="paq2piq", **training):
    data = Data("flive", options={"patches": True})
    training = Training(epochs=2, batch_size=4, **training)
    model = Model(metric=metric, width=4 if metric == "paq2piq" else None)
    return Experiment("regions", data, model, {"base": Variant(training)}, Evaluation(data, {}))


def test_what_does_not_go_with_regions_is_refused_before_the_training():
    splits = {"train": split(), "val": split(), "test": split()}
    check_splits(experiment(), splits, ["base"])
    with pytest.raises(ValueError, match=r"model\.metric='metaiqa' does not train on labels of re.*choose paq2piq"):
        check_splits(experiment("metaiqa"), splits, ["base"])
    for options in ({"crops": 2, "crop": (8, 8)}, {"adversarial": Adversarial(2 / 255)}):
        field = next(iter(options))
        with pytest.raises(ValueError, match=rf"variants\.base\.training\.{field}: .*which 'flive' has here"):
            check_splits(experiment(**options), splits, ["base"])
    with pytest.raises(ValueError, match="made/train has labels of regions"):
        crop_source(split(), None, (8, 8))


@pytest.mark.slow
def test_two_steps_lower_the_loss_of_regions_of_paq2piq():
    """Labels of regions that differ from those of images: without them, their loss stays."""
    model = PaQ2PiQ(width=4, rngs=nnx.Rngs(0))
    model.dropout1 = model.dropout2 = Dropout(0.0)
    parts = split_model(model)
    given = jax.tree.map(jnp.asarray, batch()) | {"mos": jnp.zeros(8), "region_mos": jnp.full((8, 3), 3.0)}

    def loss_of_regions(state):
        trained = merge_model(parts, state.params, state.batch_stats, training=True)
        outputs = trained.region_outputs(given["image"], given["boxes"])
        return float(jnp.mean((outputs["regions"] - given["region_mos"]) ** 2))

    losses = []
    for chosen in (given, without(given)):
        step = jax.jit(make_step(parts, mse, optax.sgd(0.01)))
        state = start(parts, optax.sgd(0.01))
        losses.append([loss_of_regions(state)])
        for _ in range(2):
            state, _ = step(state, {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}, chosen)
            losses[-1].append(loss_of_regions(state))
    (before, middle, after), (_, _, ignored) = losses
    assert before > middle > after
    assert after < 0.9 * ignored


@pytest.mark.slow
def test_a_config_trains_on_regions(tmp_path):
    """The labels of regions change the weights; those of validation images do not."""
    made = split()
    changed = replace(made, regions=Regions(made.regions.boxes, made.regions.mos[:, ::-1].copy()))
    kernels = {}
    for name, splits in {"own": (made, made), "other": (changed, made), "validation": (made, changed)}.items():
        chosen = replace(experiment(), workdir=str(tmp_path / name))
        train_variant(chosen, "base", 0, dict(zip(("train", "val"), splits, strict=True)), {}, {})
        (file,) = tmp_path.glob(f"{name}/**/model.safetensors")
        kernels[name] = file.read_bytes()
    assert kernels["own"] == kernels["validation"] != kernels["other"]
