"""Hardened models, whose orthogonal maps are built for one image size, with defenses that change the size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import models
from jaxiqa.config import Certifier, Data, Defense, Evaluation
from jaxiqa.data import load
from jaxiqa.defenses.adaptive import adaptive
from jaxiqa.evaluation import certify_stage
from jaxiqa.evaluation.build_defense import build, check_size
from jaxiqa.evaluation.defense_stage import Defended
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import CertificateRow, ModelRow

CHANGING = {
    "resize": {"scale": 0.6, "keep_size": False},
    "crop": {"size": 24, "keep_size": False},
    "resize_benchmark": {"scale": 0.5, "variant": "benchmark"},
}


@pytest.fixture(scope="module")
def split():
    return load("builtin", size=(36, 44), train=1, val=1, test=2)["test"]


@pytest.fixture(scope="module")
def model():
    made = models.build("resnet18", width=8)
    models.harden(made, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    return made


def evaluated(root, model):
    made = EvaluatedModel("m", 0, root=root, folder=root / "m", size=(36, 44), batch=2)
    made.__dict__["model"] = model  # replaces a trained one
    return made


def defense(name):
    return Defense(name.partition("_")[0], CHANGING[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name == "resize" else pytest.param(name, marks=pytest.mark.slow) for name in CHANGING]
)
def test_a_defense_may_change_the_size(name, tmp_path, model, split):
    of = evaluated(tmp_path, model)
    check_size(of, name, build(name, defense(name)))
    made = Defended(of, name, build(name, defense(name)), split, 2)
    clean = made.clean(0)
    assert clean.size != of.size
    plain = nnx.clone(model)
    plain.eval()
    images = np.stack([split.read(i) for i in range(2)]).astype(np.float32) / 255
    expected = jax.jit(lambda pixels: plain(pixels))(made._purified(0, jnp.asarray(images)))
    np.testing.assert_allclose([clean.scores[image] for image in split.ids], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_an_adaptive_attack_has_a_gradient_through_a_change_of_size(tmp_path, model, split):
    of = evaluated(tmp_path, model)
    made = Defended(of, "crop", build("crop", defense("crop")), split, 2)
    images = np.stack([split.read(i) for i in range(2)]).astype(np.float32) / 255
    gradient = jax.grad(lambda x: adaptive(of.score_at(made.clean(0).size), made.purifier, made.keys[:1])(x).sum())(
        images
    )
    assert float(jnp.abs(gradient).max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddrs", pytest.param("densepure", marks=pytest.mark.slow)])
def test_a_certifier_may_resize(name, tmp_path, model, split, monkeypatch):
    of = evaluated(tmp_path, model)
    of.add([ModelRow("m", 0, 10, -1e3, 1e3, 0.8, 1.5, 0.2, 0)])
    silent = lambda x, t: jnp.zeros((*x.shape[:3], 6))  # noqa: E731
    monkeypatch.setattr(certify_stage, "load_networks", lambda networks: {"network": silent})
    few = Certifier(name, {"size": 40, "n": 12, "n0": 4, "chunk": 8}, images=1)
    certify_stage.certify_all(of, Evaluation(data=Data("builtin"), attacks={}, certifiers={"c": few}), split)
    (row,) = of.rows(CertificateRow)
    assert row.n == 12


def test_a_bad_size_is_refused_before_the_attacks(tmp_path, model):
    of = evaluated(tmp_path, model)
    with pytest.raises(ValueError, match=r"defense 'large' on images of 36x44: .*at least 64"):
        check_size(of, "large", build("large", Defense("crop", {"size": 64})))


@pytest.mark.slow
def test_a_defense_that_cannot_be_traced_is_tried_on_one_image(tmp_path, model):
    host = lambda images, key: np.asarray(images)[:, ::2]  # noqa: E731
    check_size(evaluated(tmp_path, model), "mine", host)
    with pytest.raises(ValueError, match="defense 'mine' on images of 36x44: no"):
        check_size(evaluated(tmp_path, model), "mine", lambda images, key: (_ for _ in ()).throw(ValueError("no")))
