"""Training on attacked images: it resumes exactly, runs on several devices, and does not change plain training."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from jaxiqa import attacks
from jaxiqa.attacks import apgd
from jaxiqa.attacks.engine import loop
from jaxiqa.config import Adversarial, Data, Distil, Evaluation, Experiment, Model, NormPenalty, Training, Variant
from jaxiqa.data.pipeline import View
from jaxiqa.defenses import adversarial_batch
from jaxiqa.models.metric import Metric
from jaxiqa.ops.ssim import ssim
from jaxiqa.train.additions import additions
from jaxiqa.train.examples import Examples
from jaxiqa.train.loop import fit
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.penalties import make_penalty
from jaxiqa.train.state import merge_model, raw_score_fn, split_model, start
from jaxiqa.train.step import DEFAULTS, make_step

COUNT, SIZE = 16, (33, 40)
TAUGHT = Training(loss="norm_in_norm", norm_penalty=NormPenalty(1e-4), distil=Distil(0.5))


class Small(Metric):
    """The smallest model with a head, a batch norm and three outputs: every step compiles six passes of it."""

    loss_weights = {"low": 0.1, "high": 0.1, "score": 1.0}  # noqa: RUF012

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 6, (5, 5), strides=3, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, momentum=0.9, rngs=rngs)
        self.heads = nnx.Linear(6, 3, rngs=rngs)
        self.keep()

    def outputs(self, pixels):
        low, high, score = self.heads(jnp.tanh(self.norm(self.conv(pixels))).mean((1, 2))).T
        return {"low": low, "high": high, "score": score}


@pytest.fixture(scope="module")
def parts():
    return split_model(Small())


def augment():
    attack = attacks.make("apgd", epsilon=4 / 255, steps=2)  # from a random start, so that the keys matter
    distance = Partial(lambda clean, attacked: 10 * jnp.abs(attacked - clean).mean((1, 2, 3)))  # compiles quickly
    return Partial(adversarial_batch, attack, low=-2.0, high=2.0, distance=distance)


def optimizer(parts, rate):
    training = Training(learning_rate=rate, backbone_factor=0.1)
    return make_optimizer(parts.params, training, steps_per_epoch=1)


def leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


class Killed(Exception):
    pass


def source():
    random = np.random.default_rng(0)
    images = random.uniform(size=(COUNT, *SIZE, 3)).astype(np.float32)
    mos = (100 * images.mean((1, 2, 3))).astype(np.float32)

    def fetch(index, view):
        return {"image": images[index][:, ::-1] if view.mirrored else images[index], "mos": mos[index]}

    return Examples(fetch, mos)


def run(parts, folder, progress=lambda *_: None):
    return fit(
        parts,
        optimizer(parts, 1e-3),
        source(),
        source(),
        epochs=2,
        batch_size=8,
        loss="norm_in_norm",
        flip=True,
        masks={},
        seed=3,
        folder=folder,
        augment=augment(),
        penalty=make_penalty(TAUGHT, teacher=Partial(lambda x: x.mean((1, 2, 3)))),
        unlabelled=source(),
        devices=jax.local_devices()[:1],
        progress=progress,
    )


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(parts, tmp_path):
    def kill(done, *_):
        if done == 3:  # after the first epoch and its checkpoint, in the second
            raise Killed

    whole = run(parts, tmp_path / "whole")
    with pytest.raises(Killed):
        run(parts, tmp_path / "killed", kill)
    again = run(parts, tmp_path / "killed")
    for (name, a), (_, b) in zip(leaves(again.params), leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_stored_activations_cannot_be_attacked(parts, tmp_path):
    stored = replace(source(), after="layer1.0")
    with pytest.raises(ValueError, match=r"layer1.0.*need images"):
        fit(
            parts,
            optimizer(parts, 1e-3),
            stored,
            stored,
            epochs=1,
            batch_size=8,
            loss="mse",
            flip=False,
            masks={},
            seed=0,
            folder=tmp_path,
            augment=augment(),
        )


def wide(parts):
    """In float64, see test_parallel.py."""
    trees = {name: jax.tree.map(lambda x: x.astype(float), getattr(parts, name)) for name in ("params", "batch_stats")}
    return replace(parts, **trees)


def train(parts, devices, backend="pmap", attacked_mode="eval", steps=3, **constants):
    tuner = optimizer(parts, 1e-4)
    step = make_step(parts, LOSSES["norm_in_norm"], tuner, axis_name=AXIS, attacked_mode=attacked_mode)
    step = data_parallel(step, backend=backend, devices=jax.local_devices()[:devices])
    constants = {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS, **constants}
    state, losses, random = start(parts, tuner), [], np.random.default_rng(0)
    for _ in range(steps):
        batch = {"image": random.uniform(size=(8, *SIZE, 3)), "mos": random.normal(size=8)}
        state, value = step(state, constants, batch)
        losses.append(float(value))
    return state, losses


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "attacked_mode"), [("pmap", "eval"), ("pmap", "train"), ("shard_map", "eval")])
def test_two_devices_attack_and_train_as_one_does(parts, backend, attacked_mode):
    added = {
        "augment": augment(),
        "penalty": make_penalty(Training(norm_penalty=NormPenalty(1e-5))),
        "seed": 5,
    }
    with jax.enable_x64(True):
        one, two = (train(wide(parts), devices, backend, attacked_mode=attacked_mode, **added) for devices in (1, 2))
        assert len(jax.local_devices()) >= 2
        np.testing.assert_allclose(two[1], one[1], atol=1e-8)
        for name in ("params", "batch_stats"):
            for (path, a), (_, b) in zip(leaves(getattr(two[0], name)), leaves(getattr(one[0], name)), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path)
        plain = train(wide(parts), 1, steps=1)
    assert abs(plain[1][0] - one[1][0]) > 1e-3  # the attacked copies and the penalty have an effect


@pytest.mark.slow
def test_both_back_ends_accept_the_loop_of_accelerators(parts, monkeypatch):
    unrolled = train(parts, 2, steps=1, augment=augment())[1]
    monkeypatch.setattr(apgd, "iterate", lambda step, state, steps, *c: loop._compiled_loop(step, state, steps, c))
    for backend in ("pmap", "shard_map"):
        np.testing.assert_allclose(train(parts, 2, backend, steps=1, augment=augment())[1], unrolled, atol=1e-4)


@pytest.mark.slow
def test_a_configs_settings_reach_the_step(parts, monkeypatch):
    def added_by(training):
        data = Data("builtin")
        chosen = Experiment("x", data, Model("resnet18"), {"a": Variant(training)}, Evaluation(data, {}))
        metric = merge_model(parts, parts.params, parts.batch_stats)
        return additions(chosen, "a", 0, metric, source(), {})

    assert added_by(Training(epochs=1)) == {"attacked_mode": "eval", "augment": None, "penalty": None}
    adversarial = Adversarial(4 / 255, "fgsm", {}, label="ssim", penalty=0.5, target="score")
    added = added_by(Training(epochs=1, adversarial=adversarial))
    penalty = make_penalty(Training(norm_penalty=NormPenalty(3.0, 0.02, scale_free=False)))
    images, gather = jnp.asarray(np.stack([source().fetch(i, View())["image"] for i in range(4)])), lambda x: x
    mos = jnp.asarray(source().labels(source().mos[:4]))
    brightness = Partial(lambda x: x.mean((1, 2, 3)))
    keys = jax.random.split(jax.random.key(0), 4)
    doubled, labels = added["augment"](brightness, images, mos, keys, gather=gather)
    np.testing.assert_allclose(doubled[:4], jnp.clip(images + 4 / 255, 0, 1), atol=1e-6)
    low, high = source().labels(np.array([source().mos.min(), source().mos.max()]))
    expected = np.clip(mos - 0.5 * (1 - ssim(images, doubled[:4])) * (high - low), low, high)
    np.testing.assert_allclose(labels[:4], expected, atol=1e-5)
    price = penalty(brightness, {"image": images}, keys, gather=gather)
    assert float(price) == pytest.approx(1.5, rel=1e-3)  # ‖∇‖₁ is 1


@pytest.mark.slow
def test_the_attacked_score_is_the_metrics_own_in_either_mode(parts):
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(4, *SIZE, 3)), jnp.float32)
    scores = [
        raw_score_fn(parts, parts.params, parts.batch_stats, training=training)(images) for training in (False, True)
    ]
    expected = merge_model(parts, parts.params, parts.batch_stats).outputs(images)["score"]
    np.testing.assert_allclose(scores[0], expected, atol=1e-6)
    assert float(jnp.abs(scores[1] - scores[0]).max()) > 1e-3
