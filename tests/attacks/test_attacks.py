"""The contract of every attack, and results that single attacks must reach."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import every
from small_metric import KEY, make_images, score

from jaxiqa import attacks
from jaxiqa.attacks import ATTACKS, FITTED, UAP, fit_facpa, fit_uap, make
from jaxiqa.core.keys import image_keys

EPSILON = 8 / 255


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def mean_square(images, clean):
    return ((images - clean) ** 2).mean((1, 2, 3))


def tint(lightness, hints, mask):
    return jnp.tanh(hints + mask)


FAST = {
    "apgd": {"steps": 6},
    "cadv": {"colorize": tint, "steps": 4, "step_size": 0.01, "hints": 5},
    "fgsm": {},
    "ifgsm": {"steps": 4},
    "korhonen": {"steps": 3, "score_scale": 1.0},
    "madc": {"steps": 3},
    "nes": {"steps": 6, "pairs": 8},
    "one_pixel": {"pixels": 3, "population": 12, "generations": 4},
    "parsimonious": {"queries": 60},
    "patch_rs": {"area": 9, "queries": 60},
    "pgd": {"steps": 4},
    "square": {"queries": 150},
    "ssah": {"steps": 20, "step_size": 0.01, "score_scale": 1.0},
    "stadv": {"steps": 4, "score_scale": 1.0},
    "zhang": {"distance": mean_square, "steps": 3, "step_size": 0.01, "score_scale": 1.0},
}
"""Options that make every attack of the registry quick, without ε."""
MINIMUM = {"korhonen": 3, "patch_rs": 3, "stadv": 2}
"""Smallest side of an image, in pixels."""
FITTING = {
    "uap": {"epsilon": EPSILON, "batch_size": 3},
    "facpa": {"network": jax.tree_util.Partial(lambda shift, x: jnp.tanh(x + shift), jnp.zeros(3)), "multiple": 1},
}


def is_bounded(name):
    return name in ATTACKS and "epsilon" in {field.name for field in dataclasses.fields(ATTACKS[name])}


def an_attack(name, images, **options):
    """Return a quick attack of this name; a fitted one is fitted on these images."""
    if name == "uap":
        return fit_uap(score, images, KEY, epsilon=EPSILON, epochs=2, batch_size=2, **options)
    if name == "facpa":
        network = jax.tree_util.Partial(lambda shift, x: jnp.tanh(x - 0.5 + shift), jnp.zeros(3))
        fitting = {"epsilon": EPSILON, "multiple": 1, "epochs": 20, "batch_size": 3, "step_size": 0.3}
        return fit_facpa(score, images, KEY, network=network, **fitting, **options)
    return make(name, **({"epsilon": EPSILON} if is_bounded(name) else {}), **FAST[name], **options)


NAMES = [*ATTACKS, *FITTED]


@pytest.mark.slow
@pytest.mark.parametrize("name", every(3, NAMES))
def test_the_metric_is_compiled_once(name):
    """Compiling a published metric takes up to 30 s. A state that changes its type compiles it twice."""
    traced = []

    def counted(images):
        traced.append(images.shape)
        return score(images)

    run = partial(FITTED[name].fit, **FITTING[name]) if name in FITTED else an_attack(name, make_images())
    run(counted, make_images(), KEY)
    assert len(traced) == len(set(traced))  # black-box attacks score batches of several sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", every(4, NAMES))
def test_the_contract(name):
    images = make_images()
    attack = an_attack(name, images)
    attacked = attack(score, images, KEY)
    assert attacked.shape == images.shape
    assert attacked.dtype == images.dtype
    assert np.isfinite(attacked).all()
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    if is_bounded(name) or name in FITTED:
        assert float(jnp.abs(attacked - images).max()) <= EPSILON + 1e-6
    np.testing.assert_array_equal(attacked, attack(score, images, KEY))
    gains = score(attacked) - score(images)
    if name in FITTED:
        assert float(gains.mean()) > 1e-3
    elif name == "cadv":  # recolouring comes first and may lower the score
        opposite = an_attack(name, images, objective="lower")(score, images, KEY)
        assert (score(attacked) > score(opposite) + 1e-4).all()
    else:
        assert (gains > 1e-3).all()
    inside = jax.jit(lambda x: attack(score, x, KEY))(images)
    np.testing.assert_allclose(attacked, inside, atol=1e-5)
    keys = image_keys(KEY, len(images))
    for i in range(len(images)):
        np.testing.assert_allclose(attack(score, images[i : i + 1], keys[i : i + 1])[0], attacked[i], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(4, NAMES))
@pytest.mark.parametrize("size", [slow((1, 1)), slow((2, 2)), slow((1, 7)), (5, 3)])
def test_tiny_images_are_attacked_or_refused_clearly(name, size):
    images = make_images((1, *size, 3))
    if min(size) < MINIMUM.get(name, 1):
        with pytest.raises(ValueError, match=f"at least {MINIMUM[name]} pixels"):
            an_attack(name, images)(score, images, KEY)
        return
    attacked = an_attack(name, images)(score, images, KEY)
    assert attacked.shape == images.shape
    assert np.isfinite(attacked).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "images", [jnp.zeros((4, 4, 3)), jnp.full((1, 4, 4, 3), 255.0), jnp.zeros((1, 4, 4, 3), jnp.uint8)]
)
def test_images_of_the_wrong_kind_are_refused(name, images):
    attack = an_attack(name, make_images((2, 4, 4, 3)))
    with pytest.raises(Exception, match=r"images|b h w c"):
        attack(score, images, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, [name for name in NAMES if name != "cadv"]))
def test_lower_equals_raising_the_negative_score(name):
    images = make_images()
    change = score(an_attack(name, images, objective="lower")(score, images, KEY)) - score(images)
    assert float(change.mean()) < -1e-3 if name in FITTED else bool((change < -1e-3).all())


@pytest.mark.slow
@pytest.mark.parametrize("bad", every(2, [jnp.nan, jnp.inf]))
@pytest.mark.parametrize("name", every(2, NAMES))
def test_a_score_that_is_not_finite_is_reported_with_its_image(name, bad):
    def broken(images):
        return jnp.where(jnp.arange(len(images)) == 1, bad, 1.0) * images.mean((1, 2, 3))

    run = partial(FITTED[name].fit, **FITTING[name]) if name in FITTED else an_attack(name, make_images())
    with pytest.raises(ValueError, match="finite"):
        run(broken, make_images(), KEY)


def test_fitting_reports_non_finite_scores_with_a_finite_gradient():
    with pytest.raises(ValueError, match="non-finite"):
        fit_uap(lambda x: x.mean((1, 2, 3)) + jnp.nan, make_images(), KEY, epsilon=EPSILON)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "stadv"])
def test_an_attack_on_constant_images_runs_inside_the_jit_of_a_model(name):
    images, weight = make_images((1, 4, 4, 3)), jnp.ones((4, 4, 3))
    attack = an_attack(name, images)
    inside = jax.jit(lambda w: attack(lambda x: (x * w).sum((1, 2, 3)), images, KEY))(weight)
    np.testing.assert_allclose(inside, attack(lambda x: (x * weight).sum((1, 2, 3)), images, KEY), atol=1e-5)


def test_a_universal_perturbation_raises_scores_of_other_images_and_survives_saving(tmp_path):
    attack = fit_uap(score, make_images((8, 9, 14, 3), seed=1), KEY, epsilon=EPSILON, epochs=20, batch_size=3)
    others = make_images((6, 9, 14, 3), seed=2)
    gain = float((score(attack(None, others, KEY)) - score(others)).mean())
    noise = jax.random.rademacher(KEY, others.shape[1:], jnp.float32) * EPSILON
    assert gain > 3 * abs(float((score(jnp.clip(others + noise, 0, 1)) - score(others)).mean()))
    attacks.save_uap(attack, tmp_path / "a" / "uap.safetensors")
    np.testing.assert_array_equal(attacks.load_uap(tmp_path / "a" / "uap.safetensors").delta, attack.delta)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        attacks.load_uap(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="3 channels"):
        UAP(attack.delta)(None, make_images((1, 9, 14, 1)), KEY)


def test_a_smoother_flow_is_cheaper_and_weaker():
    images = make_images((2, 16, 16, 3))
    free, dear = (
        attacks.StAdv(flow_weight=weight, score_scale=1.0, steps=10)(score, images, KEY) for weight in (0.0, 10.0)
    )
    assert float(score(free).mean()) > float(score(dear).mean())
    assert float(jnp.abs(dear - images).mean()) < float(jnp.abs(free - images).mean())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pdg", {}, "'pgd'"),
        ("pgd", {"eps": 0.1}, "'epsilon'"),
        ("pgd", {"steps": 3}, "needs epsilon"),
        ("pgd", {"epsilon": 8.0}, "epsilon"),
        ("pgd", {"epsilon": 0.1, "steps": 0}, "steps"),
        ("ifgsm", {"epsilon": 0.1, "steps": 0}, "steps"),
        ("pgd", {"epsilon": 0.1, "norm": "l1"}, "norm"),
        ("square", {"epsilon": 0.1, "queries": 1}, "queries=1 .* integer >= 2"),
        ("parsimonious", {"epsilon": 0.1, "queries": 1}, "queries=1 .* integer >= 2"),
        ("patch_rs", {"queries": 1}, "queries=1 .* integer >= 2"),
        ("stadv", {"score_scale": 0.0}, "score_scale"),
        ("ifgsm", {"epsilon": 0.1, "objective": "up"}, "objective"),
    ],
)
def test_errors_name_the_bad_option(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)
