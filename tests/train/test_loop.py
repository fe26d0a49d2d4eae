import json
import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import models
from jaxiqa.config import Training
from jaxiqa.data.pipeline import View
from jaxiqa.train.calibration import fit_linear
from jaxiqa.train.examples import Examples, activation_source
from jaxiqa.train.loop import fit
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.pruning import apply_masks, make_masks
from jaxiqa.train.state import digest, merge_model, split_model

COUNT = 24


@pytest.fixture(scope="module")
def model():
    model = models.build("resnet18", width=8)
    models.harden(model, "after:layer3", mid=8, rngs=nnx.Rngs(1))
    return model


def source(poison=None):
    random = np.random.default_rng(0)
    images = random.uniform(size=(COUNT, 20, 24, 3)).astype(np.float32)
    mos = (100 * images.mean((1, 2, 3))).astype(np.float32)

    def fetch(index, view):
        image = images[index][:, ::-1] if view.mirrored else images[index]
        return {"image": image * np.float32(np.nan) if index == poison else image, "mos": mos[index]}

    return Examples(fetch, mos)


def run(parts, folder, *, train=None, epochs=2, masks=None):
    training = Training(epochs, learning_rate=1e-3, backbone_factor=0.1)
    optimizer = make_optimizer(parts.params, training, steps_per_epoch=1, pretrained=frozenset({"layer1.0"}))
    return fit(
        parts,
        optimizer,
        train or source(),
        source(),
        epochs=epochs,
        batch_size=8,
        loss="norm_in_norm",
        flip=True,
        masks=masks or {},
        seed=0,
        folder=str(folder),  # text is as good as a path
        devices=jax.local_devices()[:1],
    )


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
def test_training_changes_trainable_parameters_only_and_pruned_filters_stay_zero(model, tmp_path):
    parts = split_model(model, frozen=("conv1", "robust_block"))
    masks = make_masks(parts.params, amount=0.2)
    pruned = replace(parts, params=apply_masks(parts.params, masks))
    result = run(pruned, tmp_path, masks=masks)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [3, 6]
    assert result.best_correlation == pytest.approx(max(row["validation_srocc"] for row in rows))
    assert result.best_epoch == max(rows, key=lambda row: row["validation_srocc"])["epoch"]

    before, after = flat(pruned.params), flat(result.params)
    assert not any("conv1']['conv" in name and "layer" not in name for name in after)
    assert not any("robust_block" in name for name in after)
    moved = [name for name in after if np.abs(after[name] - before[name]).max() > 0]
    assert len(moved) > 0.9 * len(after)
    kernel = result.params["backbone"]["stage"]["layer2.0"]["conv1"]["kernel"]
    removed = np.all(np.asarray(kernel) == 0, axis=(0, 1, 2))
    assert removed.sum() == round(0.2 * len(removed))
    trained = merge_model(pruned, result.params, result.batch_stats)
    assert np.isfinite(trained.outputs(jnp.full((1, 20, 24, 3), 0.5))["score"]).all()


@pytest.mark.slow
def test_frozen_batch_norm_keeps_the_backbones_statistics(model, tmp_path):
    parts = split_model(model, batch_norm="frozen")
    result = run(parts, tmp_path, epochs=1)
    before, after = flat(parts.batch_stats), flat(result.batch_stats)
    for name in before:
        changed = np.abs(before[name] - after[name]).max() > 0
        assert changed == name.startswith("['dr"), name


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_reported_with_its_step(model, tmp_path):
    with pytest.raises(FloatingPointError, match=r"nan at step [1-3];"):
        run(split_model(model), tmp_path, train=source(poison=5))
    assert not list((tmp_path / "checkpoints").glob("*.sha256.json"))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_one_epoch(model, tmp_path, caplog):
    parts = split_model(model)
    whole = run(parts, tmp_path / "whole")
    again = run(parts, tmp_path / "again")
    np.testing.assert_array_equal(flat(whole.params)["['regr6']['kernel']"], flat(again.params)["['regr6']['kernel']"])
    newest = tmp_path / "again" / "checkpoints" / "6"
    file = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        repaired = run(parts, tmp_path / "again")
    assert "damaged" in caplog.text
    for name, value in flat(whole.params).items():
        np.testing.assert_array_equal(flat(repaired.params)[name], value, err_msg=name)


@pytest.mark.slow
def test_stored_activations_train_like_their_images(model, tmp_path):
    trunk = model.backbone.order[: model.backbone.span("layer1")[1] + 1]
    parts = split_model(model, frozen=trunk)
    images = source()
    stored = activation_source(parts, images, trunk[-1], flip=True, batch_size=7, progress=lambda done, total: None)
    np.testing.assert_allclose(
        stored.fetch(3, View(True))["activation"],
        model.trunk(jnp.asarray(images.fetch(3, View(True))["image"][None]), trunk[-1])[0],
        atol=1e-5,
    )
    whole, part = (
        merge_model(parts, parts.params, parts.batch_stats).outputs(
            jnp.stack([images.fetch(i, View())["image"] for i in range(4)])
        ),
        merge_model(parts, parts.params, parts.batch_stats).outputs_from(
            jnp.stack([stored.fetch(i, View())["activation"] for i in range(4)]), trunk[-1]
        ),
    )
    for name in whole:
        np.testing.assert_allclose(whole[name], part[name], atol=1e-5)


@pytest.mark.slow
def test_equal_trunks_have_equal_digests(model):
    trunk = ("conv1", "maxpool", "layer1.0")
    parts = split_model(model, frozen=trunk)
    assert digest(parts, trunk) == digest(split_model(model, frozen=(*trunk, "robust_block")), trunk)
    parts.fixed["backbone"]["stage"]["conv1"]["conv"]["kernel"] += 1e-3
    assert digest(parts, trunk) != digest(split_model(model, frozen=trunk), trunk)


def test_the_batch_must_not_exceed_the_data(model, tmp_path):
    small = Examples(source().fetch, source().mos[:5])
    with pytest.raises(ValueError, match="batch_size=8"):
        run(split_model(model), tmp_path, train=small)


def test_the_linear_map_is_the_least_squares_fit_and_refuses_bad_input():
    raw = np.random.default_rng(0).normal(size=50)
    k, b = fit_linear(raw, 3 * raw + 7 + np.random.default_rng(1).normal(size=50) * 0.1)
    assert (k, b) == (pytest.approx(3, abs=0.1), pytest.approx(7, abs=0.1))
    with pytest.raises(FloatingPointError, match="equal"):
        fit_linear(np.ones(3), np.arange(3.0))
    with pytest.raises(FloatingPointError, match="fall"):
        fit_linear(np.arange(3.0), -np.arange(3.0))
    with pytest.raises(FloatingPointError, match=r"standard deviation .*e\+17"):
        fit_linear(1e18 * raw, raw)
    with pytest.raises(FloatingPointError, match="not finite"):
        fit_linear(np.array([0.0, np.inf]), np.arange(2.0))
