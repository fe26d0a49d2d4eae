"""Every metric of the registry is split, trained, saved and loaded, hardened or not."""

import inspect
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa import models
from jaxiqa.config import Training
from jaxiqa.models import MODELS, harden
from jaxiqa.train.examples import Examples
from jaxiqa.train.loop import fit
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.state import merge_model, split_model

SMALL = {
    "brisque": {"vectors": 5},
    "fpr": {"width": 8},
    "hyperiqa": {"width": 4, "crops": 1},
    "koncept512": {"backbone": "resnet18", "width": 4},
    "linearity": {"backbone": "resnet18", "width": 8},
    "lipschitz_iqa": {"channels": (8, 12), "depth": (1, 1)},
    "maniqa": {"width": 24, "protocol": "resize"},
    "metaiqa": {"width": 8},
    "norm_controlled": {"backbone": "resnet18", "width": 8, "channels": 8},
    "paq2piq": {"width": 8},
    "spaq_bl": {"width": 4},
    "tres": {"width": 4},
}
"""Options that make a metric small and quick to compile (KonCept512's own network takes two minutes, see
`test_published_size`); all accept images of 224x224."""
WITHOUT_STAGES = {"brisque", "lipschitz_iqa"}
"""Metrics that cannot be hardened."""
CASES = [("brisque", True), *((name, i % 2 == 1) for i, name in enumerate(SMALL)), ("linearity", True)]
"""Every other metric is hardened: both forms of all would take a quarter of an hour."""
RELEASE = {name: [pytest.mark.release] for name in ("fpr", "hyperiqa", "koncept512", "maniqa", "tres")}
"""Metrics that compile for most of a minute."""
SIZE = (224, 224)


def small(name):
    return MODELS[name].metric(rngs=nnx.Rngs(0), **SMALL[name])


def test_no_metric_is_left_out():
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize("name", every(3, MODELS))
def test_a_metric_returns_its_options(name):
    model = nnx.eval_shape(lambda: small(name))
    assert type(model) is MODELS[name].metric
    parameters = inspect.signature(type(model).__init__).parameters
    assert dict(model.options).keys() == parameters.keys() - {"self", "rngs"}
    again = nnx.eval_shape(lambda: type(model)(rngs=nnx.Rngs(0), **dict(model.options)))
    assert nnx.split(again)[0] == nnx.split(model)[0]
    assert "score" in model.loss_weights


def source(count=6):
    random = np.random.default_rng(0)
    images = random.uniform(size=(count, *SIZE, 3)).astype(np.float32) * np.linspace(0.2, 1, count)[:, None, None, None]
    mos = np.linspace(0, 100, count).astype(np.float32)
    return Examples(lambda index, view: {"image": np.float32(images[index]), "mos": mos[index]}, mos), images


@pytest.mark.parametrize(
    ("name", "hardened"),
    [CASES[0], *(pytest.param(*c, marks=[pytest.mark.slow, *RELEASE.get(c[0], ())]) for c in CASES[1:])],
)
def test_any_metric_trains_saves_and_loads(name, hardened, tmp_path):
    model = small(name)
    if hardened and name in WITHOUT_STAGES:
        with pytest.raises(TypeError, match="expected a metric with a backbone of named stages"):
            harden(model, "after:layer3", "bottleneck", mid=2, rngs=nnx.Rngs(1))
        return
    if hardened:
        order = model.backbone.order
        harden(model, f"after:{order[len(order) // 2]}", "bottleneck", mid=2, rngs=nnx.Rngs(1))
    parts = split_model(model)
    optimizer = make_optimizer(parts.params, Training(learning_rate=1e-4, backbone_factor=1.0), steps_per_epoch=1)
    examples, images = source()
    items = replace(examples, crops=1)
    found = fit(
        parts, optimizer, items, examples, epochs=1, batch_size=3, loss="norm_in_norm", flip=False, masks={}, seed=0,
        folder=tmp_path, devices=jax.local_devices()[:1],
    )  # fmt: skip
    before, after = (jax.tree.leaves(tree) for tree in (parts.params, found.params))
    moved = [np.any(np.asarray(old) != np.asarray(new)) for old, new in zip(before, after, strict=True)]
    assert np.mean(moved) > 0.8
    trained = merge_model(parts, found.params, found.batch_stats)
    trained.calibrate(k=2.0, b=5.0, score_range=(-1.0, 101.0))
    models.save(trained, tmp_path / "model")
    loaded = models.load_run(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model.json").read_text())["model"] == name
    assert [block.name for block in loaded.insertions] == (["bottleneck"] if hardened else [])
    assert loaded.score_range == (-1.0, 101.0)
    score = jax.jit(lambda score, images: score(images))
    raw = merge_model(parts, found.params, found.batch_stats).outputs(jnp.asarray(images[:2]))["score"]
    scores = score(models.score_fn(loaded), jnp.asarray(images[:2]))
    np.testing.assert_allclose(scores, 2 * raw + 5, rtol=1e-3, atol=1e-3)
    assert type(models.load(name, tmp_path / "model")) is type(model)
