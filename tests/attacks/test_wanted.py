"""Objectives, strengths and metrics that attacks are given."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_metric import KEY, make_images, score
from test_attacks import EPSILON, FAST, an_attack, is_bounded, slow

from jaxiqa.attacks import ATTACKS, NES, PGD, check_masking, fit_uap, from_callable, make, sweep
from jaxiqa.attacks.engine.objective import Maximize, Target, outrank
from jaxiqa.core.keys import image_keys

SINKING = {
    "-1.0": Maximize(-1.0),
    "-1": Maximize(-1),
    "list": Maximize([-1, -1, -1]),
    "array": Maximize(-np.ones(3, np.float32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", *map(slow, ("nes", "parsimonious", "one_pixel", "patch_rs"))])
@pytest.mark.parametrize("kind", ["-1.0", "list", *map(slow, ("-1", "array", "until inf", "until -inf"))])
def test_maximize_with_a_negative_sign_equals_lower(name, kind):
    infinite = {"until inf": Maximize(-1.0, float("inf")), "until -inf": Maximize(-1.0, float("-inf"))}
    images = make_images((3, 9, 14, 3))
    expected = an_attack(name, images, objective="lower").run(score, images, KEY)
    found = an_attack(name, images, objective=(SINKING | infinite)[kind]).run(score, images, KEY)
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.queries, expected.queries)
    assert (found.scores < score(images)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", *map(slow, ("nes", "parsimonious", "one_pixel", "patch_rs"))])
def test_each_image_moves_in_its_own_direction(name):
    images = make_images((2, 9, 14, 3))
    result = an_attack(name, images, objective=Maximize([1, -1])).run(score, images, KEY)
    gains = np.asarray(result.scores - score(images))
    assert gains[0] > 0 > gains[1]
    # Past its partner an image is not changed further: the first is there already, the second nearly.
    pair = outrank(score(images), score(images) + jnp.array([-1e-4, 1e-4]))
    result = an_attack(name, images, objective=pair).run(score, images, KEY)
    assert result.scores[0] < score(images)[0] - 1e-4
    assert result.scores[1] > score(images)[1] + 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Maximize(0.0), "sign"),
        (lambda: Maximize(float("nan")), "sign"),
        (lambda: Maximize([1, 2]), "sign"),
        (lambda: Maximize(1.0, float("nan")), "threshold"),
        (lambda: Target(float("inf")), "target"),
        (lambda: Target(1.0, -1.0), "tolerance"),
        (lambda: Target(1.0, float("nan")), "tolerance"),
        (lambda: make("pgd", epsilon=0.1, objective="up"), "objective"),
    ],
)
def test_bad_objectives_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("name", ["pgd", "square", "madc"])
def test_an_objective_for_another_number_of_images_is_refused(name):
    images = make_images((2, 9, 14, 3))
    with pytest.raises(ValueError, match=r"objective.sign has shape \(3,\) for 2 images"):
        an_attack(name, images, objective=Maximize([1, -1, 1]))(score, images, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name if name in ("pgd", "nes") else slow(name) for name in ATTACKS])
@pytest.mark.parametrize("wanted", [1e-4, slow(-1e-3), slow(0.02)])
def test_no_score_ends_further_from_its_target(name, wanted):
    images = make_images((2, 9, 14, 3))
    target = score(images) + wanted * jnp.array([1, -1])
    attacked = an_attack(name, images, objective=Target(target))(score, images, KEY)
    left, begun = np.abs(score(attacked) - target), abs(wanted)
    assert (left <= begun + 1e-6).all()
    if name in ("fgsm", "ifgsm", "pgd", "apgd") and wanted < 0.02:  # less than the attack can move
        assert (left < 0.01 * begun + 1e-5).all()
    if is_bounded(name):
        assert float(jnp.abs(attacked - images).max()) <= EPSILON + 1e-6


@pytest.mark.slow
def test_targets_work_in_sweeps_under_jit_and_with_l2():
    images = make_images((2, 9, 14, 3))
    target = score(images) + 1e-3
    attack = PGD(0.5, norm="l2", steps=4, objective=Target(target))
    found = sweep(attack, score, images, KEY, [0.2, 0.5])
    assert float(jnp.abs(jax.vmap(score)(found) - target).max()) < 2e-5
    inside = jax.jit(lambda x: attack(score, x, KEY))(images)
    np.testing.assert_allclose(inside, attack(score, images, KEY), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_pattern_is_fitted_to_the_objective_of_each_image_in_any_order(batch_size):
    """The dark image is scored by its red, the bright one by its blue; one score shall rise, the other fall."""
    images = jnp.array([0.3, 0.7]).reshape(2, 1, 1, 1) * jnp.ones((2, 3, 5, 3))

    def told(x):
        bright = jax.lax.stop_gradient(x[..., 1].mean((1, 2)) > 0.5)
        return jnp.where(bright, x[..., 2].mean((1, 2)), x[..., 0].mean((1, 2)))

    options = {"epsilon": EPSILON, "epochs": 6, "batch_size": batch_size}
    fitted = fit_uap(told, images, KEY, objective=Maximize([1, -1]), **options)
    assert float(fitted.delta[..., 0].min()) > 0
    assert float(fitted.delta[..., 2].max()) < 0
    with pytest.raises(ValueError, match=r"objective\.sign"):
        fit_uap(told, images, KEY, objective=Maximize([1, -1, 1]), **options)


STRENGTHS = [8, 1.5, -0.1, float("nan"), "8/255", True, None, np.float32(2), np.array([0.1]), 1j]


@pytest.mark.parametrize("wrong", STRENGTHS, ids=repr)
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "nes", "square", "parsimonious"])
def test_a_strength_is_checked_in_a_sweep_as_in_the_attack(name, wrong):
    attack = make(name, epsilon=0.1, **FAST[name])
    with pytest.raises(Exception, match=r"strengths|epsilon"):
        sweep(attack, score, make_images(), KEY, [2 / 255, wrong])
    if isinstance(wrong, float | np.floating):  # other types are refused by the type checks of the tests first
        with pytest.raises(ValueError, match="epsilon="):
            make(name, epsilon=wrong, **FAST[name])


STEPPED = ("madc", "korhonen", "ssah", "stadv", "zhang", "cadv")
OTHERS = [(name, "step_size", wrong) for name in STEPPED for wrong in (-1.0, "1/255", float("nan"), True)]
OTHERS += [("one_pixel", "pixels", wrong) for wrong in (0, True)] + [("patch_rs", "area", w) for w in ("9", -4)]


@pytest.mark.parametrize(("name", "field", "wrong"), OTHERS)
def test_strengths_of_other_units_are_checked_too(name, field, wrong):
    attack = make(name, **FAST[name])
    with pytest.raises(ValueError, match=rf"strengths\[0\]: {field}="):
        sweep(attack, score, make_images(), KEY, [wrong])


def test_strengths_may_be_lists_arrays_and_traced():
    images, attack = make_images(), make("fgsm", epsilon=0.1)
    expected = sweep(attack, score, images, KEY, [0.0, 0.1, 1])
    for strengths in (np.array([0, 0.1, 1]), jnp.array([0, 0.1, 1]), (0, np.float64(0.1), 1)):
        np.testing.assert_allclose(sweep(attack, score, images, KEY, strengths), expected, atol=1e-6)
    traced = jax.jit(lambda e: sweep(attack, score, images, KEY, e))(jnp.array([0.0, 0.1, 1.0]))
    np.testing.assert_allclose(traced, expected, atol=1e-6)
    with pytest.raises(Exception, match="strengths"):
        sweep(attack, score, images, KEY, "8/255")
    with pytest.raises(ValueError, match="write 8 / 255"):
        sweep(attack, score, images, KEY, ["8/255"])


def numpy_metric(x):
    return np.sin(37 * np.asarray(x)).mean((1, 2, 3))


def looping_metric(x):
    return jnp.array([float(image.mean()) for image in x])


def torch_like_metric(x):
    return x.detach().mean((1, 2, 3))


@pytest.mark.parametrize("metric", [numpy_metric, looping_metric, torch_like_metric])
@pytest.mark.parametrize("name", ["pgd", "square", *map(slow, ("fgsm", "apgd", "madc", "stadv", "nes"))])
def test_the_error_for_a_metric_outside_jax_names_from_callable(name, metric):
    with pytest.raises(TypeError, match=r"from_callable.*NES, Square"):
        an_attack(name, make_images())(metric, make_images(), KEY)
    with pytest.raises(TypeError, match="from_callable"):
        check_masking(metric, make_images(), KEY)
    with pytest.raises(TypeError, match="from_callable"):
        fit_uap(metric, make_images(), KEY, epsilon=EPSILON)


def test_other_errors_of_a_metric_are_not_changed():
    def wrong(x):
        raise TypeError("my own")

    with pytest.raises(TypeError, match=r"^my own"):
        PGD(0.1)(wrong, make_images(), KEY)


def test_a_metric_outside_jax_is_attacked_within_its_own_bounds():
    images = 255 * make_images()
    metric = from_callable(lambda x: np.asarray(x).mean((1, 2, 3)))
    attack = make("square", epsilon=EPSILON, queries=20, bounds=(0.0, 255.0))
    attacked = attack(metric, images, KEY)
    assert float(jnp.abs(attacked - images).max()) <= 8.01
    assert float(attacked.mean()) > float(images.mean())


@pytest.mark.slow
def test_nes_gives_the_same_image_alone_and_in_a_batch_of_a_real_metric():
    from jaxiqa import models

    metric = models.score_fn(models.build("resnet18", width=8, seed=0))
    images = jnp.asarray(np.round(np.random.default_rng(0).random((3, 32, 40, 3)) * 255) / 255, jnp.float32)
    keys = image_keys(KEY, 3)
    for attack in (NES(EPSILON, steps=3, pairs=3), NES(EPSILON, steps=2, pairs=5, variant="benchmark")):
        together = attack(metric, images, KEY)
        for i in range(3):
            np.testing.assert_allclose(attack(metric, images[i : i + 1], keys[i : i + 1])[0], together[i], atol=1e-6)


def test_nes_returns_the_image_it_stopped_at():
    images = make_images((2, 9, 14, 3))
    target = score(images) + 0.004
    attack = replace(an_attack("nes", images), steps=30, objective=Target(target, tolerance=0.001))
    result = attack.run(score, images, KEY)
    assert float(jnp.abs(result.scores - target).max()) <= 0.002


PROGRAM = """
import jax.numpy as jnp
from jaxiqa import attacks
from jaxiqa.attacks.engine.objective import Maximize, as_objective
given = [lambda name=name, field=field, wrong=wrong: attacks.make(name, **{field: wrong}) for name, field in
         [("pgd", "epsilon"), ("square", "epsilon"), ("nes", "epsilon"), ("madc", "step_size"), ("one_pixel", "pixels")]
         for wrong in ("8/255", True, 1j, [0.1], jnp.float32(-1), -1)]
given += [lambda: Maximize("1"), lambda: Maximize(True), lambda: as_objective(50), lambda: attacks.OnePixel(1.5)]
for number, wrong in enumerate(given):
    try:
        wrong()
    except ValueError as error:
        assert "=" in str(error), error
    else:
        raise AssertionError(number)
"""


@pytest.mark.slow
def test_options_of_a_wrong_type_are_refused_without_type_checks():
    """Type checks are off, as for users: in the other tests they come first."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
