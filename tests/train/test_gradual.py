"""Gradual pruning: nested masks of equal steps, by every criterion."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa.config import Prune, Training
from jaxiqa.models.metric import Metric
from jaxiqa.nn.stages import Stages
from jaxiqa.train.criteria import prune
from jaxiqa.train.examples import Examples
from jaxiqa.train.gradual import GradualPruning, gradual_pruning, starts
from jaxiqa.train.loop import fit
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.pruning import make_masks, prunable, scored_filters
from jaxiqa.train.state import split_model, start

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


def run(folder, chosen, *, progress=lambda step, steps, loss, best: None, devices=1):
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


@pytest.mark.parametrize("criterion", every(5, ["l2", "l1", "pls", "displs", "hsic"]))
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


@pytest.mark.slow
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
