"""Prunings from data: against brute force on a small network, known orders, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import models
from jaxiqa.config import Prune
from jaxiqa.models.metric import Metric
from jaxiqa.nn.stages import Stages
from jaxiqa.train.criteria import prune
from jaxiqa.train.examples import Examples
from jaxiqa.train.hsic import gram, hsic, sparse_towards
from jaxiqa.train.importance import discriminative, filter_vip, vip
from jaxiqa.train.pruning import apply_masks, make_masks, prunable, scored_filters
from jaxiqa.train.recorded import cell_means, record
from jaxiqa.train.state import merge_model, split_model


class Tiny(Metric):
    """Three convolutions; the score is a linear map of the last one's mean."""

    def __init__(self, *, rngs):
        conv = lambda cin, cout: nnx.Conv(cin, cout, (3, 3), rngs=rngs)  # noqa: E731
        self.backbone = Stages({"a": (conv(3, 4), 4), "b": (conv(4, 6), 6), "c": (conv(6, 5), 5)})
        self.out = nnx.Linear(5, 1, rngs=rngs)
        self.keep()

    def outputs(self, images):
        x = images
        for name in self.backbone.order:
            x = jax.nn.relu(self.backbone.stage[name](x))
        return {"score": self.out(x.mean((1, 2)))[:, 0]}


def tiny(seed=0):
    return split_model(Tiny(rngs=nnx.Rngs(seed)))


def examples(count=24, size=(9, 12)):
    random = np.random.default_rng(0)
    images = random.uniform(size=(count, *size, 3)).astype(np.float32) * np.linspace(0.2, 1, count)[:, None, None, None]
    images = images.astype(np.float32)
    mos = (images.mean((1, 2, 3)) * 100 + random.normal(size=count)).astype(np.float32)
    return Examples(lambda index, view: {"image": images[index], "mos": mos[index]}, mos), images, mos


@pytest.mark.slow
def test_what_is_recorded_are_the_outputs_of_every_convolution():
    parts, (_, images, _) = tiny(), examples()
    model = merge_model(parts, parts.params, parts.batch_stats)
    paths = [path[:-1] for path, _ in prunable(parts.params)]
    outputs, found = record(model, jnp.asarray(images), paths, grid=2)
    x = jnp.asarray(images)
    plain = merge_model(parts, parts.params, parts.batch_stats)
    for name, path in zip("abc", found, strict=True):
        assert path == ("backbone", "stage", name)
        y = plain.backbone.stage[name](x)
        by_hand = y[:, :8].reshape(24, 2, 4, 2, 6, -1).mean((2, 4)).reshape(24, -1)
        np.testing.assert_allclose(found[path], by_hand, atol=1e-5)
        x = jax.nn.relu(y)
    np.testing.assert_allclose(outputs["score"], plain.outputs(jnp.asarray(images))["score"], rtol=1e-6)


def by_hand_vip(x, y, components):
    """NIPALS of one label, and the sums of the formula one by one."""
    x, y = (x - x.mean(0)) / x.std(0, ddof=1), (y - y.mean()) / y.std(ddof=1)
    importance, total = np.zeros(x.shape[1]), 0.0
    for _ in range(components):
        w = x.T @ y / np.linalg.norm(x.T @ y)
        t = x @ w
        p, q = x.T @ t / (t @ t), y @ t / (t @ t)
        x, y = x - np.outer(t, p), y - q * t
        s = (t @ t) * q * q
        importance, total = importance + s * w**2, total + s
    return np.sqrt(len(importance) * importance / total)


@pytest.mark.parametrize(("n", "p", "components"), [(20, 5, 2), (12, 30, 2), (30, 4, 1), (9, 3, 3)])
def test_vip_is_that_of_a_regression_by_hand(n, p, components):
    random = np.random.default_rng(n)
    x = random.normal(size=(n, p)) * random.uniform(0.1, 9, p) + 5
    y = x @ random.normal(size=p) + random.normal(size=n)
    found = vip(x, y, components=components)
    np.testing.assert_allclose(found, by_hand_vip(x, y, components), rtol=1e-6)
    np.testing.assert_allclose((found**2).mean(), 1)
    with_constant = vip(np.concatenate([x, np.full((n, 2), 3.0)], 1), y, components=components)
    np.testing.assert_allclose(with_constant, [*found, 0, 0], rtol=1e-6)


def test_a_filter_that_carries_the_label_is_the_most_important():
    random = np.random.default_rng(1)
    y = random.normal(size=40)
    noise = lambda: random.normal(size=(40, 2))  # noqa: E731  two cells of one filter
    strong, weak = y[:, None] + 0.1 * noise(), y[:, None] + 2 * noise()
    layers = {("a",): np.concatenate([noise(), strong], 1)[:, [0, 2, 1, 3]], ("b",): weak}
    scores = filter_vip(layers, y, {("a",): 2, ("b",): 1})
    assert scores["a",][1] > scores["b",][0] > scores["a",][0]
    kernels = {("a", "kernel"): np.ones((1, 1, 2, 2)), ("b", "kernel"): np.ones((1, 1, 2, 1))}
    masks = scored_filters(kernels, scores, 0.34, {})
    assert masks["a", "kernel"][0, 0, 0].tolist() == [0, 1]
    assert masks["b", "kernel"].all()


def test_displs_protects_layers_whose_scores_are_alike():
    scores = {("a",): np.array([0.9, 1.1]), ("b",): np.array([0.1, 1.9]), ("c",): np.array([0.5, 1.5])}
    found = discriminative(scores)  # d: 10, 1.11, 2
    assert list(found) == [("a",), ("b",), ("c",)]
    np.testing.assert_array_equal(found["c",], scores["c",])  # the last layer has none after it
    np.testing.assert_array_equal(found["b",], scores["b",])  # 1.11 < 2
    np.testing.assert_array_equal(found["a",], [1, 1])  # 10 > 1.11


@pytest.mark.slow
@pytest.mark.parametrize(("amount", "criterion"), [(0.2, "pls"), (0.4, "pls"), (0.2, "displs")])
def test_the_filters_of_the_smallest_scores_are_pruned(amount, criterion):
    parts, (source, images, mos) = tiny(), examples()
    pruned, masks = prune(parts, Prune(amount, criterion, images=24), source, seed=3)
    x, features, filters = jnp.asarray(images), {}, {}
    model = merge_model(parts, parts.params, parts.batch_stats)
    for name in "abc":
        y = model.backbone.stage[name](x)
        features["backbone", "stage", name] = np.asarray(cell_means(y, 2))
        filters["backbone", "stage", name] = y.shape[-1]
        x = jax.nn.relu(y)
    scores = filter_vip(features, mos, filters)
    scores = discriminative(scores) if criterion == "displs" else scores
    ranked = sorted((score, path, i) for path, some in scores.items() for i, score in enumerate(some))
    removed = {(path, i) for _, path, i in ranked[: round(amount * 15)]}
    for path, kernel in prunable(pruned.params):
        zero = {i for i in range(kernel.shape[-1]) if not np.any(kernel[..., i])}
        assert zero == {i for place, i in removed if place == path[:-1]}
        assert masks["backbone"]["stage"][path[2]]["kernel"].shape == kernel.shape


def test_hsic_of_two_points_has_a_closed_form():
    x, y = jnp.array([[0.0, 1.0], [3.0, 2.0]]), jnp.array([[1.0], [5.0]])
    k, ell = float(gram(x)[0, 1]), float(gram(y)[0, 1])
    assert k == pytest.approx(np.exp(-10 / (2 * 25 * 2)), rel=1e-6)
    assert float(hsic(x, y)) == pytest.approx((1 - k) * (1 - ell), rel=1e-5)


@pytest.mark.slow
def test_hsic_is_the_trace_of_centred_matrices_and_zero_for_a_constant():
    random = np.random.default_rng(2)
    with jax.enable_x64(True):
        x, y = (jnp.asarray(random.normal(size=(7, d))) for d in (3, 2))
        k, ell, h = np.asarray(gram(x)), np.asarray(gram(y)), np.eye(7) - 1 / 7
        assert float(hsic(x, y)) == pytest.approx(np.trace(k @ h @ ell @ h) / 36, rel=1e-9)
    x, y = (jnp.asarray(random.normal(size=(7, d)), jnp.float32) for d in (3, 2))
    assert float(hsic(x, jnp.ones((7, 1)))) == pytest.approx(0, abs=1e-6)
    assert float(hsic(x, x, sigma=1.0)) > float(
        hsic(x, jnp.asarray(random.normal(size=(7, 3)), jnp.float32), sigma=1.0)
    )


@pytest.mark.slow
def test_hsic_pruning_trains_the_weights_and_removes_a_share_of_every_layer():
    parts, (source, images, mos) = tiny(), examples()
    calls = []
    params, masks = sparse_towards(
        parts,
        images,
        mos,
        amount=0.34,
        epochs=3,
        batch_size=8,
        learning_rate=0.01,
        progress=lambda *now: calls.append(now),
    )
    assert [call[:2] for call in calls] == [(i + 1, 9) for i in range(9)]
    before = dict(prunable(parts.params))
    for path, kernel in prunable(params):
        zero = [i for i in range(kernel.shape[-1]) if not np.any(kernel[..., i])]
        assert len(zero) == round(0.34 * kernel.shape[-1])
        kept = [i for i in range(kernel.shape[-1]) if i not in zero]
        assert np.any(np.asarray(kernel)[..., kept] != np.asarray(before[path])[..., kept])
    same = sparse_towards(parts, images, mos, amount=0.34, epochs=3, batch_size=8, learning_rate=0.01)
    jax.tree.map(np.testing.assert_array_equal, params, same[0])
    pruned, again = prune(parts, Prune(0.34, "hsic", images=16), source, seed=0)
    assert jax.tree.structure(again) == jax.tree.structure(masks)
    assert jax.tree.structure(pruned.params) == jax.tree.structure(parts.params)


@pytest.mark.slow
def test_hsic_pruning_keeps_scores_better_than_the_same_share_cut_at_once():
    parts, (_, images, mos) = tiny(), examples()
    score = lambda params: np.asarray(merge_model(parts, params, {}).outputs(jnp.asarray(images))["score"])  # noqa: E731
    whole = score(parts.params)
    trained, _ = sparse_towards(parts, images, mos, amount=0.34, epochs=40, learning_rate=1e-3, rho=1.0)
    cut = apply_masks(parts.params, make_masks(parts.params, amount=0.34))
    spread = whole.std()
    assert np.abs(score(trained) - whole).mean() / spread < np.abs(score(cut) - whole).mean() / spread


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["pls", "displs"])
def test_a_real_metric_is_pruned_by_its_own_features(criterion):
    model = models.build("resnet18", width=8)
    parts, (source, _, _) = split_model(model), examples(12, (40, 48))
    pruned, _ = prune(parts, Prune(0.1, criterion, images=10), source, seed=0)
    removed = sum(int((np.abs(kernel).sum((0, 1, 2)) == 0).sum()) for _, kernel in prunable(pruned.params))
    total = sum(kernel.shape[-1] for _, kernel in prunable(parts.params))
    assert 0 < removed <= round(0.1 * total)
