"""The mean of several metrics: scores, gradients, shared trunks, files, and what is refused."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa import layers, models
from jaxiqa.lipschitz import report
from jaxiqa.models import average, control_tail, harden, swap_activation
from jaxiqa.models.averaged import check_members
from jaxiqa.models.registry import MODELS
from jaxiqa.pretrained import key_map
from jaxiqa.train.state import raw_score_fn, split_model

X = jax.random.uniform(jax.random.key(0), (3, 43, 56, 3))


def calibrated(model, k=2.0, b=-1.0, low=-3.0):
    model.calibrate(k=k, b=b, score_range=(low, 10.0))
    return model


def other_head(model, seed=5):
    """A copy with the same backbone and another head."""
    copy, new = nnx.clone(model), tiny.metric(seed=seed)
    for name in ("dr6", "dr7", "regression"):
        setattr(copy, name, nnx.clone(getattr(new, name)))
    return copy


@pytest.fixture(scope="module")
def members():
    """Base, a bottleneck after its layer2, a controlled tail on that trunk, and a stranger."""
    base = tiny.metric()
    block = other_head(base)
    harden(block, "after:layer2", "bottleneck", mid=3, rngs=nnx.Rngs(1))
    tail = control_tail(block, after="layer3.0", channels=4, depth=1, rngs=nnx.Rngs(2))
    stranger = tiny.metric(seed=7)
    return [calibrated(model, 1.0 + i, 0.5 * i, -1.0 - i) for i, model in enumerate((base, block, tail, stranger))]


def mean_of(members, images, *, mirror):
    """Oracle: NumPy's mean of the members' own scores. Both views are one batch, since the rounding of a convolution
    depends on the size of its batch."""
    views = np.stack([images, np.asarray(images)[:, :, ::-1]][: 1 + mirror], axis=1)
    scores = [np.asarray(member(jnp.asarray(views.reshape(-1, *images.shape[1:]))), np.float64) for member in members]
    return np.mean(scores, axis=0).reshape(len(images), -1).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("mirror", [True, False])
def test_it_is_the_mean_of_the_members_scores(members, mirror):
    found = average(members, mirror=mirror)
    np.testing.assert_allclose(found(X), mean_of(members, X, mirror=mirror), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found(X[:1]), found(X)[:1], rtol=1e-5, atol=1e-6)
    assert found.score_range == (-2.5, 10.0)
    found.calibrate(k=-3.0, b=2.0, score_range=(0.0, 1.0))
    np.testing.assert_allclose(found(X), 2 - 3 * mean_of(members, X, mirror=mirror), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.outputs(X)["score"], mean_of(members, X, mirror=mirror), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_crops_are_mirrored_too(members):
    """A teacher scores crops by `item_outputs`, where nothing has been prepared."""
    found = average(members[:2], mirror=True)
    expected = mean_of(members[:2], X, mirror=True)
    np.testing.assert_allclose(found.item_outputs(X)["score"], expected, rtol=1e-5, atol=1e-5)
    parts = split_model(found)
    raw = raw_score_fn(parts, parts.params, parts.batch_stats, items=True)
    np.testing.assert_allclose(raw(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("lipschitz_iqa",), ("lipschitz_iqa",) * 2, ("lipschitz_iqa", "linearity")])
def test_metrics_without_stages_are_averaged(kinds, tmp_path):
    members = [
        calibrated(tiny.metric(seed=seed) if kind == "linearity" else models.build(metric=kind, seed=seed))
        for seed, kind in enumerate(kinds)
    ]
    found = average(members, mirror=True)
    np.testing.assert_allclose(found(X), mean_of(members, X, mirror=True), rtol=1e-4, atol=1e-4)
    models.save(found, tmp_path / "mean")
    np.testing.assert_array_equal(models.load_run(tmp_path / "mean")(X), found(X))


def test_what_is_no_metric_is_refused(members):
    for other in ("jaxiqa-base", lambda x: x.mean((1, 2, 3))):
        with pytest.raises(TypeError, match=r"members\[1\] is a .*; expected a metric"):
            inspect.unwrap(check_members)([members[0], other])  # without the type checks of the tests


@pytest.mark.slow
def test_the_gradient_is_the_mean_of_the_gradients(members):
    def gradient(model):
        return np.asarray(jax.grad(lambda x: model(x).sum())(X))

    views = [gradient(member) for member in members[:3]]
    views += [np.asarray(jax.grad(lambda x, m=member: m(x[:, :, ::-1]).sum())(X)) for member in members[:3]]
    expected, found = np.mean(views, axis=0), gradient(average(members[:3], mirror=True))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def convolutions(model, images=X):
    return str(jax.make_jaxpr(lambda x: model(x))(images)).count("conv_general_dilated[")


@pytest.mark.slow
def test_a_shared_trunk_is_computed_and_stored_once(members):
    """Oracle: the convolutions of the members alone, less those of the shared stages for all members but one."""
    base, block, tail, _ = members
    counts = [convolutions(member) for member in (base, block, tail)]
    stages = dict.fromkeys(base.backbone.order[: base.backbone.span("layer2")[1] + 1])
    shared = str(jax.make_jaxpr(lambda x: base.trunk(x, list(stages)[-1]))(X)).count("conv_general_dilated[")
    longer = str(jax.make_jaxpr(lambda x: tail.trunk(x, "layer3.0"))(X)).count("conv_general_dilated[")
    found = average([base, block, tail])
    assert found.shares == ((0, 0), (0, len(stages)), (1, len(stages) + 2))  # + the bottleneck and layer3.0
    assert convolutions(found) == sum(counts) - shared - longer
    twice = jnp.concatenate([X, X])  # both views pass as one batch
    assert convolutions(average([base, block, tail], mirror=True)) == convolutions(found, twice)

    def size(model):
        return sum(variable.size for variable in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat))))

    trunks = size(base.backbone.upto("layer2")), size(tail.backbone)
    assert size(found) == sum(map(size, (base, block, tail))) - sum(trunks)


@pytest.mark.slow
def test_strangers_share_nothing(members):
    assert average([members[0], members[3]]).shares == ((0, 0), (0, 0))


@pytest.mark.slow
def test_one_changed_number_ends_the_shared_trunk(members):
    changed = nnx.clone(members[0])
    kernel = changed.backbone.stage["layer2.1"].conv2.kernel
    kernel[...] = kernel[...].at[0, 0, 0, 0].add(1e-3)
    found = average([members[0], changed])
    assert members[0].backbone.order[found.shares[1][1]] == "layer2.1"


def test_other_activations_are_another_trunk(members):
    smooth = nnx.clone(members[0])
    swap_activation(smooth, "silu")
    assert average([members[0], smooth]).shares[1][1] <= 0


@pytest.mark.slow
def test_a_trunk_ends_where_a_head_reads(members):
    """Linearity's head reads layer3, so it cannot start after layer4, although that is equal too."""
    copy = other_head(members[0])
    found = average([members[0], calibrated(copy)])
    assert members[0].backbone.order[found.shares[1][1] - 1] == "layer3.1"
    np.testing.assert_allclose(found(X), mean_of([members[0], copy], X, mirror=False), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_members_are_not_changed(members):
    before = [np.asarray(member(X)) for member in members]
    found = average(members)
    for variable in key_map.parameters(found).values():
        variable.set_value(jnp.zeros_like(variable[...]))
    for member, scores in zip(members, before, strict=True):
        np.testing.assert_array_equal(member(X), scores)


@pytest.mark.slow
def test_it_is_saved_with_each_shared_array_once_and_loaded(members, tmp_path):
    smooth = calibrated(nnx.clone(members[3]))
    swap_activation(smooth, "silu")
    found = average([*members[:3], smooth], mirror=True)
    found.calibrate(k=1 / 3, b=0.1, score_range=(-1.0, 1.0))
    models.save(found, tmp_path)
    loaded = models.load_run(tmp_path)
    np.testing.assert_array_equal(loaded(X), found(X))
    assert loaded.shares == found.shares
    assert loaded.members[1].backbone.stage["layer1.0"] is loaded.members[0].backbone.stage["layer1.0"]
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["format"] == 4
    assert [member["model"] for member in card["members"]] == ["linearity", "linearity", "norm_controlled", "linearity"]
    size = (tmp_path / "model.safetensors").stat().st_size
    arrays = sum(variable.size for variable in jax.tree.leaves(nnx.state(found, (nnx.Param, nnx.BatchStat))))
    assert 4 * arrays <= size <= 4 * arrays + 200_000
    models.save(loaded, tmp_path / "again")
    assert (tmp_path / "again" / "model.json").read_text() == (tmp_path / "model.json").read_text()


@pytest.mark.slow
def test_damaged_cards_of_members_are_named(members, tmp_path):
    models.save(average(members[:2]), tmp_path)
    path = tmp_path / "model.json"
    card = json.loads(path.read_text())
    del card["members"][1]["blocks"]
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="damaged: it lacks blocks"):
        models.load_run(tmp_path)
    card["members"][1] |= {"blocks": [], "model": "musiq"}
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="model='musiq' is not allowed"):
        models.load_run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, X.shape[1:3]])
def test_a_score_function_folds_and_materializes_it(members, size):
    block = nnx.clone(members[0])
    harden(block, "after:layer1", mid=2, rngs=nnx.Rngs(3))
    chosen = [members[0], calibrated(block), members[2]]
    found = average(chosen, mirror=True)
    score = models.score_fn(found, size)
    np.testing.assert_allclose(score(X), mean_of(chosen, X, mirror=True), rtol=1e-4, atol=1e-4)
    kinds = [type(module) for _, module in nnx.iter_modules(score.module())]
    assert nnx.BatchNorm not in kinds
    assert (layers.OrthogonalConv in kinds) == (size is None)


@pytest.mark.slow
def test_bfloat16_reaches_the_members(members):
    score = models.score_fn(average(members[:2]), X.shape[1:3], compute_dtype="bfloat16")
    exact = mean_of(members[:2], X, mirror=False)
    assert 0 < np.abs(score(X) - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.slow
def test_its_bound_is_the_mean_of_the_bounds():
    """Two metrics without a shared trunk: the bounds of terms add; the views of one image do not raise it."""
    chosen = [calibrated(tiny.metric(seed=seed), 1.0 + seed) for seed in (0, 1)]
    expected = np.mean([report(member, (40, 48, 3), lower=False).bound for member in chosen])
    for mirror in (False, True):
        found = report(average(chosen, mirror=mirror), (40, 48, 3), lower=False).bound
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["koncept512", "maniqa"])
def test_other_metrics_are_computed_one_by_one(name):
    options = {"koncept512": {"backbone": "resnet18", "width": 4}, "maniqa": {"width": 24, "protocol": "pyiqa"}}[name]
    chosen = [calibrated(MODELS[name].metric(rngs=nnx.Rngs(seed), **options)) for seed in (0, 1)]
    x = jax.random.uniform(jax.random.key(1), (1, 230, 240, 3))
    found = average(chosen, mirror=True)
    assert found.shares == ((0, 0), (0, 0))
    np.testing.assert_allclose(found(x), mean_of(chosen, x, mirror=True), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_crops_of_an_image_stay_together():
    """HyperIQA cuts crops: items of image 0 come first, of both views."""
    member = nnx.eval_shape(lambda: MODELS["hyperiqa"].metric(backbone="resnet18", width=4, crops=2, rngs=nnx.Rngs(0)))
    member.reset_calibration()
    found = models.Averaged([member], mirror=True, shares=[(0, 0)])
    items, x = found.prepare(X), X
    own, mirrored = member.prepare(x), member.prepare(x[:, :, ::-1])
    assert items.shape[0] == 2 * own.shape[0]
    np.testing.assert_array_equal(items.reshape(3, 2, 2, *items.shape[1:])[1, 0], own.reshape(3, 2, *own.shape[1:])[1])
    np.testing.assert_array_equal(
        items.reshape(3, 2, 2, *items.shape[1:])[2, 1], mirrored.reshape(3, 2, *own.shape[1:])[2]
    )


@pytest.mark.slow
def test_features_are_those_of_a_member(members):
    found = average(members[:2])
    np.testing.assert_array_equal(
        found.features(X, ("1.layer3",))["1.layer3"], members[1].features(X, ("layer3",))["layer3"]
    )


@pytest.mark.slow
def test_what_cannot_be_averaged_is_refused(members):
    both = average(members[:2])
    with pytest.raises(ValueError, match="members is empty"):
        average([])
    with pytest.raises(ValueError, match=r"members\[1\] is an average; give its members"):
        average([members[0], both])
    sized = tiny.metric(input_size=(40, 48))
    with pytest.raises(ValueError, match=r"members\[0\] .*input_size=None.* and members\[1\] .*input_size=\(40, 48\)"):
        average([members[0], sized])
    whole = nnx.eval_shape(lambda: MODELS["tres"].metric(backbone="resnet18", width=4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"members\[1\] \(TReS with input_size=\(224, 224\)\) prepare"):
        models.averaged.check_members([members[0], whole])
    with pytest.raises(TypeError, match="average of metrics; harden the members"):
        harden(both, "after:layer2", mid=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="average of metrics; swap the activations of the members"):
        swap_activation(both, "silu", part="head")


def test_uncalibrated_members_cannot_be_saved(members, tmp_path):
    found = average([members[0], tiny.metric(seed=3)])
    with pytest.raises(ValueError, match="no score_range yet"):
        models.save(found, tmp_path)
