"""Gradual pruning: nested masks of equal steps, by every criterion, and a killed run that ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from quick import every

from jaxiqa.config import Prune, Training, Variant, check_experiment, describe, load_config
from jaxiqa.models.metric import Metric
from jaxiqa.nn.stages import Stages
from jaxiqa.train.criteria import prune
from jaxiqa.train.examples import Examples
from jaxiqa.train.gradual import GradualPruning, check_prune, gradual_pruning, starts
from jaxiqa.train.loop import fit
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.pruning import make_masks, prunable, scored_filters
from jaxiqa.train.startup import check_training
from jaxiqa.train.state import split_model, start

ROOT = Path(__file__).parent.parent.parent
COUNT, EPOCHS = 16, 6


class Tiny(Metric):
    """Three convolutions; the score is a linear map of the last one's mean."""

    def __init__(self, *, rngs):
        conv = lambda cin, cout: nnx.Conv(cin, cout, (3, 3), rngs=rngs)  # noqa: E731
        self.backbone = Stages({"a": (conv(3, 4), 4), "b": (conv(4, 6), 6), "c": (conv(6, 5), 5)})
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.out = nnx.Linear(5, 1, rngs=rngs)
        self.keep()

    def outputs(self, images):
        x = images
        for name in self.backbone.order:
            x = jax.nn.relu(self.backbone.stage[name](x))
        return {"score": self.out(self.norm(x).mean((1, 2)))[:, 0]}


def source():
    random = np.random.default_rng(0)
    images = random.uniform(size=(COUNT, 9, 12, 3)).astype(np.float32)
    images *= np.linspace(0.2, 1, COUNT, dtype=np.float32)[:, None, None, None]
    mos = (100 * images.mean((1, 2, 3)) + random.normal(size=COUNT)).astype(np.float32)

    def fetch(index, mirrored):
        return {"image": images[index][:, ::-1] if mirrored else images[index], "mos": mos[index]}

    return Examples(fetch, mos)


def run(folder, chosen, *, progress=lambda step, steps, best: None, devices=1):
    parts, images = split_model(Tiny(rngs=nnx.Rngs(0))), source()
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-2, backbone_factor=1.0), steps_per_epoch=1)
    return fit(
        parts,
        optimizer,
        images,
        images,
        epochs=EPOCHS,
        batch_size=8,
        loss="norm_in_norm",
        flip=True,
        masks=gradual_pruning(parts, chosen, images, epochs=EPOCHS, seed=3),
        seed=0,
        folder=folder,
        devices=jax.local_devices()[:devices],
        progress=progress,
    )


def zeros(params):
    """Return which weights of every convolution are zero."""
    return {path: np.asarray(kernel) == 0 for path, kernel in prunable(params)}


def filters(params):
    return {path[-2]: int(gone.all((0, 1, 2)).sum()) for path, gone in zeros(params).items()}


def test_steps_are_spread_evenly_and_the_last_leaves_an_epoch():
    assert starts(9, 3) == (0, 3, 6)
    assert starts(10, 4) == (0, 2, 4, 6)
    assert starts(3, 3) == (0, 1, 2)
    for epochs in range(1, 30):
        for steps in range(1, epochs + 1):
            found = starts(epochs, steps)
            assert len(found) == steps
            assert found[-1] < epochs
            assert len(set(np.diff(found))) <= 1
    with pytest.raises(ValueError, match=r"steps=4 in a training of epochs=3.*choose at most 3 steps, or more epochs"):
        starts(3, 4)


@pytest.mark.parametrize("criterion", every(2, ["l2", "l1", "pls", "displs", "hsic"]))
def test_removed_weights_stay_removed_whatever_becomes_of_their_layer(criterion):
    """Between two steps all kernels are redrawn, so that without the earlier masks others would be removed."""
    parts, images, random = split_model(Tiny(rngs=nnx.Rngs(0))), source(), np.random.default_rng(1)
    amount, gone = 0.6, {}
    plan = gradual_pruning(parts, Prune(amount, criterion, images=12, steps=3), images, epochs=3, seed=3)
    state = plan.untouched(start(parts, make_optimizer_of(parts)))
    for epoch in range(3):
        state = plan.advance(state, epoch)
        now = zeros(state.params)
        masked = {path: ~np.asarray(mask) for path, mask in prunable(state.masks)}
        for path, removed in now.items():
            np.testing.assert_array_equal(removed, masked[path])
            assert not (gone.get(path, False) & ~removed).any()
        if criterion in ("l2", "hsic"):
            share = amount * (epoch + 1) / 3
            assert filters(state.params) == {"a": round(share * 4), "b": round(share * 6), "c": round(share * 5)}
        if criterion == "l1":
            total = sum(removed.size for removed in now.values())
            assert sum(removed.sum() for removed in now.values()) == round(amount * (epoch + 1) / 3 * total)
        gone = now
        state = replace(
            state,
            params=jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), state.params),
        )
        for path, mask in prunable(state.masks):
            kernel = dict(prunable(state.params))[path] * mask
            state.params["backbone"]["stage"][path[-2]]["kernel"] = kernel
    assert sum(removed.sum() for removed in gone.values()) > 0


def make_optimizer_of(parts):
    return make_optimizer(parts.params, Training(learning_rate=1e-3, backbone_factor=1.0), steps_per_epoch=1)


def test_a_removed_filter_is_not_exchanged_for_another_of_norm_zero():
    kernel = np.ones((1, 1, 1, 4), np.float32) * np.array([0, 0, 1, 2], np.float32)
    earlier = {"a": {"kernel": np.array([1, 0, 1, 1], bool).reshape(1, 1, 1, 4)}}
    masks = make_masks({"a": {"kernel": kernel}}, amount=0.25, earlier=earlier)
    assert masks["a"]["kernel"].ravel().tolist() == [1, 0, 1, 1]
    weights = make_masks({"a": {"kernel": kernel}}, amount=0.25, criterion="l1", earlier=earlier)
    assert weights["a"]["kernel"].ravel().tolist() == [1, 0, 1, 1]


def test_a_layer_that_would_lose_all_filters_keeps_those_that_it_has():
    kernels = {(name, "kernel"): np.ones((1, 1, 1, 2)) for name in "ab"}
    earlier = {("a", "kernel"): np.array([1, 0], bool).reshape(1, 1, 1, 2)}
    scores = {("a",): np.array([0.1, 9.0]), ("b",): np.array([1.0, 2.0])}
    masks = scored_filters(kernels, scores, 0.5, earlier)
    assert masks["a", "kernel"].ravel().tolist() == [1, 0]
    assert masks["b", "kernel"].ravel().tolist() == [1, 1]


def test_the_first_step_is_the_whole_pruning_if_there_is_one():
    parts, images = split_model(Tiny(rngs=nnx.Rngs(0))), source()
    plan = gradual_pruning(parts, Prune(0.5), images, epochs=4, seed=3)
    state = plan.advance(plan.untouched(start(parts, make_optimizer_of(parts))), 0)
    pruned, masks = prune(parts, Prune(0.5), images, seed=3)
    jax.tree.map(np.testing.assert_array_equal, state.params, pruned.params)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b) > 0), state.masks, masks)


def test_a_training_prunes_in_steps_and_its_best_epoch_has_the_whole_amount(tmp_path):
    seen = []

    def prune_and_note(share, params, batch_stats, masks):
        params, masks = plan.prune(share, params, batch_stats, masks)
        seen.append((round(share, 3), filters(params)))
        return params, masks

    parts, images = split_model(Tiny(rngs=nnx.Rngs(0))), source()
    plan = gradual_pruning(parts, Prune(0.5, steps=3), images, epochs=EPOCHS, seed=3)
    result = fit(
        parts,
        make_optimizer_of(parts),
        images,
        images,
        epochs=EPOCHS,
        batch_size=8,
        loss="norm_in_norm",
        flip=True,
        masks=GradualPruning(plan.starts, prune_and_note),
        seed=0,
        folder=tmp_path,
        devices=jax.local_devices()[:1],
    )
    assert [share for share, _ in seen] == [0.333, 0.667, 1.0]
    assert [found for _, found in seen] == [
        {"a": 1, "b": 1, "c": 1},
        {"a": 1, "b": 2, "c": 2},
        {"a": 2, "b": 3, "c": 2},
    ]
    assert filters(result.params) == seen[-1][1]
    assert result.best_epoch > plan.starts[-1]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert result.best_correlation == pytest.approx(max(row["validation_srocc"] for row in rows[plan.starts[-1] :]))


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module", params=["l2", *slow("l1", "displs")])
def whole(request, tmp_path_factory):
    chosen = Prune(0.5, request.param, images=12, steps=3)
    return chosen, run(tmp_path_factory.mktemp("whole"), chosen)


# Two steps per epoch; a step of the pruning begins after 0, 4 and 8 steps. Checkpoints are written after each epoch.
@pytest.mark.parametrize("killed", [*slow(1, 3, 4), 5, *slow(7, 8, 9, 11)])
def test_a_run_killed_anywhere_ends_with_the_same_bits(whole, killed, tmp_path):
    chosen, expected = whole

    def kill(step, steps, best):
        if step == killed:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        run(tmp_path, chosen, progress=kill)
    same(run(tmp_path, chosen), expected)


@pytest.mark.parametrize("stopped", [*slow(3), 4, *slow(5)])
def test_a_run_stopped_between_two_steps_ends_with_the_same_bits(whole, stopped, tmp_path):
    chosen, expected = whole

    def stop(step, steps, best):
        if step == stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit, match=f"step {stopped} of 12 is saved"):
        run(tmp_path, chosen, progress=stop)
    same(run(tmp_path, chosen), expected)


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats, expected.batch_stats)
    assert (found.best_epoch, found.best_correlation) == (expected.best_epoch, expected.best_correlation)


@pytest.mark.slow
def test_the_number_of_devices_does_not_change_what_is_removed(tmp_path):
    one, two = (run(tmp_path / str(count), Prune(0.5, "pls", images=12, steps=2), devices=count) for count in (1, 2))
    for path, gone in zeros(one.params).items():
        np.testing.assert_array_equal(zeros(two.params)[path], gone)


@pytest.fixture(scope="module")
def smoke():
    return load_config(ROOT / "configs" / "smoke.py")


def variant(smoke, chosen, epochs=3):
    odd = Variant(Training(epochs=epochs, batch_size=8), parent="baseline", prune=chosen)
    return replace(smoke, variants={"baseline": smoke.variants["baseline"], "odd": odd})


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Prune(0.5, steps=0), r"variants\.odd\.prune\.steps=0; expected at least 1"),
        (Prune(0.5, steps=4), r"variants\.odd\.prune: steps=4 in a training of epochs=3"),
        (Prune(0.01, steps=3), r"variants\.odd\.prune: the first of steps=3: amount=0\.0033.* removes nothing.*fewer"),
        (Prune(0.99, steps=2), r"variants\.odd\.prune: amount=0\.99 removes all 8 filters"),
    ],
)
def test_steps_that_cannot_work_are_refused_at_once(smoke, chosen, message):
    with pytest.raises(ValueError, match=message):
        check_training(variant(smoke, chosen))


def test_steps_that_work_pass_and_older_runs_continue(smoke):
    check_training(variant(smoke, Prune(0.5, steps=3)))
    check_prune(split_model(Tiny(rngs=nnx.Rngs(0))).params, Prune(0.0, steps=2), 2)
    older = describe(variant(smoke, Prune(0.1)), "odd", 0)["variants"][1]["prune"]
    assert older == {"amount": 0.1, "criterion": "l2"}
    assert describe(variant(smoke, Prune(0.1, steps=2)), "odd", 0)["variants"][1]["prune"]["steps"] == 2
    check_experiment(variant(smoke, Prune(0.1, steps=2)))


CONFIG = """
from dataclasses import replace
from jaxiqa.config import Attack, Data, Evaluation, Experiment, Model, Prune, Training, Variant

def get_config():
    training = Training(epochs=6, batch_size=8)
    data = Data("builtin", options={"size": (32, 32), "train": 24, "val": 12, "test": 4})
    return Experiment(
        name="gradual",
        data=data,
        model=Model("resnet18", width=8),
        variants={"pruned": Variant(training, prune=Prune(0.5, steps=3))},
        evaluation=Evaluation(data, {"FGSM": Attack("fgsm", (8 / 255,))}),
    )
"""


@pytest.mark.slow
def test_the_program_killed_between_two_steps_writes_the_same_model(tmp_path):
    (tmp_path / "gradual.py").write_text(CONFIG)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def begin(workdir):
        command = [sys.executable, "train.py", "--config", str(tmp_path / "gradual.py"), "--workdir", str(workdir)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    process = begin(tmp_path / "whole")
    assert process.wait() == 0, process.stderr.read()
    folder = tmp_path / "killed" / "pruned" / "seed0"
    for reached in (9, 15):  # three steps per epoch, two epochs per step of the pruning
        process = begin(tmp_path / "killed")
        while not any(int(path.name.split(".")[0]) >= reached for path in folder.glob("checkpoints/*.sha256.json")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "training.json").exists()
    process = begin(tmp_path / "killed")
    assert process.wait() == 0, process.stderr.read()
    found, expected = (
        safetensors.numpy.load_file(tmp_path / run / "pruned" / "seed0" / "model.safetensors")
        for run in ("killed", "whole")
    )
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    kernel = found["backbone.stage.layer2.0.conv1.kernel"]
    assert (kernel == 0).all((0, 1, 2)).sum() == kernel.shape[-1] // 2
