"""Swapped activations: what changes, what stays, what survives files and configs, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from quick import only

from jaxiqa import lipschitz, models
from jaxiqa.config import Training, Variant, check_experiment, describe, load_config
from jaxiqa.config.training import Activation
from jaxiqa.evaluation.fingerprint import model_digest
from jaxiqa.models.activations import swap_activation, swappable, swapped
from jaxiqa.models.exporting import export
from jaxiqa.nn.activations import ACTIVATIONS, activate
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.pretrained import key_map
from jaxiqa.train.startup import check_training
from jaxiqa.train.variant import filter_images, swap_parts

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))
CONFIG = Path(__file__).parent.parent.parent / "configs" / "smoke.py"
SMALL = {"taps": ("layer1", "layer2")}


@pytest.fixture(scope="module")
def smoke():
    return load_config(CONFIG)


def primitives(model, size=(96, 96)):
    """Return the names of all operations and functions in the program of a metric."""
    graphdef, state = nnx.split(model)
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x))
    return str(program(state, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)))


@pytest.mark.slow
def test_the_recommended_hardening_smooths_what_is_there_and_nothing_else():
    for backbone, chosen in (("resnet18", "softplus"), ("mobilenet_v2", "smooth_relu6")):
        model = tiny.abstract(backbone)
        models.harden_recommended(model)
        assert swapped(model) == {"backbone": chosen, "head": "softplus"}
        assert model.backbone.order[0] == "wavelet_shrinkage"
        with pytest.raises(ValueError, match="has a wavelet_shrinkage already"):
            models.harden_recommended(model)
    model = tiny.abstract()
    swap_activation(model, "silu")
    with pytest.raises(ValueError, match=r"threshold=4\.0"):
        models.harden_recommended(model, threshold=4.0)
    assert swapped(model) == {"backbone": "silu"}
    models.harden_recommended(model)
    assert swapped(model) == {"backbone": "silu", "head": "softplus"}
    with pytest.raises(TypeError, match="average of metrics"):
        models.harden_recommended(models.average([tiny.metric()]))


def test_the_recommended_config_has_the_same_architecture():
    variant = load_config(CONFIG.parent / "recommended.py").variants["robust"]
    found, expected = tiny.abstract(), tiny.abstract()
    swap_parts(found, variant)
    filter_images(found, variant)
    models.harden_recommended(expected)
    assert found.insertions == expected.insertions
    assert swapped(found) == swapped(expected)


def test_a_part_without_a_relu_is_smooth_already():
    model = nnx.Dict({"conv": nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))})
    swap_activation(model, "smooth")
    with pytest.raises(ValueError, match="has no ReLU or ReLU6"):
        swap_activation(model, "softplus")


def test_the_names_in_configs_are_those_of_the_table():
    assert get_args(Activation) == tuple(ACTIVATIONS)


def rounded_corner(x):
    """A ReLU with a parabola within 1/2 of its corner."""
    return max(x, 0.0) if abs(x) > 0.5 else (x + 0.5) ** 2 / 2


FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "softplus": lambda x: math.log1p(math.exp(4 * x)) / 4,
    "smooth_relu6": lambda x: rounded_corner(x) - rounded_corner(x - 6),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_its_formula(name):
    x = np.linspace(-8, 8, 321, dtype=np.float32)
    np.testing.assert_allclose(activate(name, jnp.asarray(x)), [FORMULAS[name](float(v)) for v in x], atol=2e-6)


@pytest.mark.parametrize("backbone", only(("mobilenet_v2", "resnet18"), BACKBONES))
def test_no_relu_is_left_in_any_backbone(backbone):
    model = nnx.eval_shape(lambda: models.Linearity(backbone, width=8, rngs=nnx.Rngs(0)))
    kinked = "name=clip" if backbone.startswith(("mobilenet", "efficientnet")) else "name=relu"
    assert kinked in primitives(model)
    before = nnx.eval_shape(lambda: nnx.split(nnx.clone(model))[1])
    swap_activation(model, "silu")
    swap_activation(model, "elu", part="head")
    text = primitives(model)
    assert not [name for name in ("name=clip", "name=relu") if name in text]
    assert "name=silu" in text
    assert "name=elu" in text
    assert jax.tree.structure(before) == jax.tree.structure(nnx.split(model)[1])  # no parameter came or went


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("koncept512", {"width": 8}, ("backbone", "head")),
        ("hyperiqa", {"width": 8}, ("backbone", "head")),
        ("tres", {"width": 8}, ("backbone", "head")),
        ("maniqa", {"width": 24}, ("backbone", "head")),
        ("paq2piq", {"width": 8}, ("backbone", "head")),
        ("spaq_bl", {"width": 8}, ("backbone",)),
        ("metaiqa", {"width": 8}, ("backbone",)),
        ("fpr", {"width": 8}, ()),
        ("brisque", {}, ()),
    ],
)
def test_which_parts_of_every_metric_can_be_swapped(name, options, parts):
    model = nnx.eval_shape(lambda: models.MODELS[name].metric(**options, rngs=nnx.Rngs(0)))
    for part in ("backbone", "head"):
        if part in parts:
            swap_activation(model, "gelu", part=part)
            assert {module.activation for module in swappable(model, part)} == {"gelu"}
        else:
            with pytest.raises(ValueError, match=f"the {part} of {type(model).__name__} has no ReLU or ReLU6"):
                swap_activation(model, "gelu", part=part)
    assert swapped(model) == dict.fromkeys(parts, "gelu")


@pytest.mark.slow
def test_a_swapped_network_computes_with_the_new_activation():
    model = tiny.metric(**SMALL)
    swap_activation(model, "silu")
    block, x = model.backbone.stage["layer1.0"], jax.random.normal(jax.random.key(1), (1, 5, 6, 8))
    y = jax.nn.silu(block.bn1(block.conv1(x)))
    np.testing.assert_allclose(block(x), jax.nn.silu(block.bn2(block.conv2(y)) + x), atol=1e-6)
    kink = jax.grad(lambda x: block(x).sum())
    steps = [np.asarray(kink(x + t)) for t in (0, 1e-3)]
    assert np.abs(steps[1] - steps[0]).max() < 0.1  # slopes are continuous


@pytest.mark.slow
def test_the_choice_is_saved_loaded_hardened_cloned_and_exported(tmp_path):
    model = tiny.metric(**SMALL)
    model.calibrate(k=2.0, b=1.0, score_range=(-1.0, 9.0))
    plain = model(X)
    models.save(model, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "model.json").read_text())["format"] == 2
    swap_activation(model, "silu")
    swap_activation(model, "gelu", part="head")
    models.harden(model, "after:layer1", "bottleneck", mid=4, rngs=nnx.Rngs(1))
    assert np.abs(model(X) - plain).max() > 1e-3
    models.save(model, tmp_path / "new")
    loaded = models.load_run(tmp_path / "new")
    assert swapped(loaded) == {"backbone": "silu", "head": "gelu"}
    np.testing.assert_array_equal(loaded(X), model(X))
    np.testing.assert_array_equal(nnx.clone(loaded)(X), model(X))
    found = models.load("linearity", tmp_path / "new")
    score = models.score_fn(found)
    np.testing.assert_allclose(score(X), model(X), rtol=1e-4)
    exported = export(lambda images: score(images), "2, 40, 56, 3", platforms=("cpu",))
    np.testing.assert_allclose(exported.call(X), model(X), rtol=1e-4)
    card = tmp_path / "new" / "model.json"
    assert model_digest(card).endswith(" backbone=silu head=gelu")
    content = json.loads(card.read_text())
    del content["activations"], content["seal"]
    card.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"model\.json is damaged: it lacks activations"):
        models.load_run(tmp_path / "new")


@pytest.mark.slow
def test_swapping_back_gives_the_published_metric(tmp_path):
    model, other = tiny.metric(**SMALL), tiny.metric(**SMALL)
    swap_activation(model, "elu")
    assert nnx.split(model)[0] != nnx.split(other)[0]
    swap_activation(model, "relu")
    assert swapped(model) == {}
    np.testing.assert_array_equal(model(X), other(X))


def test_bad_choices_are_refused_and_leave_the_model(tmp_path):
    model = tiny.metric(**SMALL)
    with pytest.raises(ValueError, match=r"activation='sillu' is not allowed; choose from 'relu', 'relu6', 'silu'"):
        swap_activation(model, "sillu")
    with pytest.raises(ValueError, match=r"part='trunk' is not allowed; choose from 'backbone', 'head'"):
        swap_activation(model, "silu", part="trunk")
    assert swapped(model) == {}
    model.backbone.stage["layer1.0"].activation = "silu"
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="the backbone has the activations relu, silu; swap_activation sets one"):
        models.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_could_not_be_loaded_again_is_not_saved(tmp_path):
    model = tiny.metric(**SMALL)
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"arrays, such as .*could not be loaded again; save it before it is folded"):
        models.save(models.fold_batch_norm(model, (40, 56)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("activation", "slope"), [("relu", 1.0), ("elu", 1.0), ("silu", 1.09984), ("softplus", 1.0), ("smooth_relu6", 1.0)]
)
def test_lipschitz_reports_use_the_slope_of_the_activation(activation, slope):
    block = nnx.Dict({"conv": nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))})
    bound = lipschitz.report(lambda x: activate(activation, block["conv"](x)), (8, 8, 3)).bound
    plain = lipschitz.report(lambda x: block["conv"](x), (8, 8, 3)).bound
    assert bound / plain == pytest.approx(slope, rel=1e-4)


@pytest.mark.slow
def test_the_report_of_a_swapped_metric_is_finite_and_gelu_says_why_not():
    model, bounds = tiny.metric(taps=("conv1", "layer1")), {}
    for activation in ("relu", "silu", "gelu"):
        swap_activation(model, activation)
        bounds[activation] = lipschitz.report(models.score_fn(model, (24, 32)), (24, 32, 3), lower=False)
    assert np.isfinite(bounds["relu"].bound)
    assert bounds["relu"].bound < bounds["silu"].bound < np.inf
    assert bounds["gelu"].bound == np.inf


def test_a_variant_names_its_activations_and_older_runs_continue(smoke):
    described = describe(smoke, "baseline", 0)["variants"][0]
    assert not {"activation", "head_activation"} & described.keys()
    chosen = Variant(Training(epochs=2), parent="baseline", activation="silu", head_activation="elu")
    changed = replace(smoke, variants={**smoke.variants, "smooth": chosen})
    check_training(changed)
    described = describe(changed, "smooth", 0)["variants"][1]
    assert (described["activation"], described["head_activation"]) == ("silu", "elu")
    odd = replace(chosen, parent=None)
    object.__setattr__(odd, "activation", "sillu")  # the tests check types when an object is made
    odd = replace(smoke, variants={"odd": odd})
    with pytest.raises(ValueError, match=r"variants\.odd\.activation='sillu'; did you mean 'silu'"):
        check_experiment(odd)


@pytest.mark.parametrize(
    ("metric", "field", "message"),
    [
        ("fpr", "activation", r"variants\.odd\.activation='silu': the backbone of FPR has no ReLU"),
        ("metaiqa", "head_activation", r"variants\.odd\.head_activation='silu': the head of MetaIQA has no ReLU"),
    ],
)
def test_a_variant_of_a_metric_without_such_activations_is_refused(smoke, metric, field, message):
    model = replace(smoke.model, metric=metric, backbone=None, width=8, taps=None, input_size=(64, 64))
    odd = Variant(Training(epochs=2, batch_size=8), **{field: "silu"})
    with pytest.raises(ValueError, match=message):
        check_training(replace(smoke, model=model, variants={"odd": odd}))


def test_parameters_are_those_of_the_parent(smoke):
    model, other = tiny.metric(**SMALL), tiny.metric(**SMALL)
    swap_activation(model, "silu")
    ours, theirs = key_map.parameters(model), key_map.parameters(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name][...], theirs[name][...])
