import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from jaxiqa import attacks
from jaxiqa.config import Adversarial
from jaxiqa.defenses import ADVERSARIAL_PRESETS, LABELS, adversarial_batch, deviation, norm_penalty, relabel
from jaxiqa.networks import LPIPS, Distance
from jaxiqa.ops.ssim import ssim

IMAGES = jax.random.uniform(jax.random.key(0), (4, 17, 22, 3), minval=0.2, maxval=0.8)
MOS = jnp.array([30.0, 80.0, 10.0, 55.0])
WEIGHTS = jax.random.normal(jax.random.key(1), (17, 22, 3))


def linear(x):
    return jnp.tensordot(x, WEIGHTS, 3)


def batch(label, *, attack=None, score_fn=linear, images=IMAGES, **options):
    attack = attack or attacks.make("fgsm", epsilon=8 / 255)
    distance = LABELS[label] if isinstance(label, str) else label
    options = {"low": 4.0, "high": 88.0, "distance": distance, **options}
    return adversarial_batch(attack, score_fn, images, MOS, jax.random.key(2), **options)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("unchanged", lambda clean, attacked: MOS),
        ("minimum", lambda clean, attacked: jnp.full(4, 4.0)),
        ("ssim", lambda clean, attacked: jnp.clip(MOS - 84 * (1 - ssim(clean, attacked)), 4, 88)),
    ],
)
def test_labels_follow_the_formula_and_clean_images_keep_theirs(label, expected):
    images, mos = batch(label)
    np.testing.assert_array_equal(images[4:], IMAGES)
    np.testing.assert_array_equal(mos[4:], MOS)
    np.testing.assert_allclose(mos[:4], expected(IMAGES, images[:4]), atol=1e-4)
    assert label == "unchanged" or bool((mos[:4] < MOS).all())


@pytest.mark.slow
def test_a_penalty_and_a_network_scale_the_label():
    model = LPIPS("vgg16", width=4, rngs=nnx.Rngs(0))
    distance = Distance(*nnx.split(model))
    images, mos = batch(distance, penalty=0.5)
    expected = jnp.clip(MOS - 0.5 * 84 * distance(IMAGES, images[:4]), 4, 88)
    np.testing.assert_allclose(mos[:4], expected, atol=1e-3)
    assert float((MOS - mos[:4]).max()) > 0.1


def test_ms_ssim_needs_images_large_enough_for_five_scales():
    with pytest.raises(ValueError, match="at least 161"):
        batch("ms_ssim")


def test_a_label_is_clipped_to_the_score_range():
    np.testing.assert_array_equal(
        relabel(jnp.array([5.0, 100.0]), jnp.ones(2) * 0.5, low=4, high=88), jnp.array([4.0, 58.0])
    )


def test_the_attack_raises_the_score_or_moves_it_away_from_the_label():
    raised = batch("unchanged", target="score")[0][:4]
    np.testing.assert_allclose(raised - IMAGES, 8 / 255 * jnp.broadcast_to(jnp.sign(WEIGHTS), IMAGES.shape), atol=1e-6)

    away = batch("unchanged")[0][:4]
    assert float(jnp.abs(away - IMAGES).max()) <= 8 / 255 + 1e-6
    before, after = (deviation(linear, MOS)(x) for x in (IMAGES, away))
    assert float(after.sum()) > float(before.sum())
    directions = jnp.sign(linear(away) - linear(IMAGES))
    assert {-1.0, 1.0} == set(directions.tolist())  # some scores go up, some go down


def test_the_deviation_equals_that_of_norm_in_norm():
    scores, mos = np.asarray(linear(IMAGES), np.float64), np.asarray(MOS, np.float64)
    unit = [(x - x.mean()) / np.linalg.norm(x - x.mean()) for x in (scores, mos)]
    np.testing.assert_allclose(deviation(linear, MOS)(IMAGES), np.abs(unit[0] - unit[1]), atol=1e-5)
    flat = deviation(lambda x: 0 * x.sum((1, 2, 3)), MOS)
    assert np.isfinite(jax.grad(lambda x: flat(x).sum())(IMAGES)).all()


@pytest.mark.slow
def test_two_step_apgd_stays_in_its_ball_compiled_and_eager():
    preset = ADVERSARIAL_PRESETS["ssim_4"]
    attack = attacks.make(preset["attack"], epsilon=preset["epsilon"], **preset["options"])
    score_fn = Partial(lambda x: jnp.sin(3 * linear(x)) + linear(x**2))
    run = lambda attack, score_fn, images: batch("ssim", attack=attack, score_fn=score_fn, images=images)  # noqa: E731
    images, mos = run(attack, score_fn, IMAGES)
    compiled = jax.jit(run)(attack, score_fn, IMAGES)
    np.testing.assert_allclose(compiled[0], images, atol=1e-6)
    np.testing.assert_allclose(compiled[1], mos, atol=1e-3)
    assert 1 / 255 < float(jnp.abs(images[:4] - IMAGES).max()) <= 4 / 255 + 1e-6


def test_nothing_is_differentiated_through_the_attack():
    def total(scale):
        score_fn = Partial(lambda scale, x: linear(scale * x), scale)
        attack = attacks.make("pgd", epsilon=0.1, steps=1, random_start=False, step_size=0.01)
        images, mos = batch("ssim", attack=attack, score_fn=score_fn)
        return images.sum() + mos.sum()

    assert float(jax.grad(total)(2.0)) == 0.0


def test_the_six_presets_are_fields_of_a_config():
    assert list(ADVERSARIAL_PRESETS) == ["ssim_2", "ssim_4", "ssim_8", "lpips_2", "lpips_4", "lpips_8"]
    for name, preset in ADVERSARIAL_PRESETS.items():
        chosen = Adversarial(**preset)
        assert name == f"{chosen.label}_{round(255 * chosen.epsilon)}"
        assert chosen == Adversarial(chosen.epsilon, label=chosen.label)  # the defaults are the presets'
        attacks.make(chosen.attack, epsilon=chosen.epsilon, **chosen.options)


@pytest.mark.parametrize("options", [{"target": "labels"}, {"penalty": -0.1}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        batch("ssim", **options)


@pytest.mark.parametrize("step", [1e-3, 0.5])
def test_the_penalty_of_a_linear_score_is_half_the_squared_l1_norm_of_its_weights(step):
    with jax.enable_x64(True):
        weights, images = (jnp.asarray(x, float) for x in (WEIGHTS, IMAGES))
        value = norm_penalty(lambda x: jnp.tensordot(x, weights, 3), images, step=step, weight=3.0, scale_free=False)
        assert float(value) == pytest.approx(1.5 * float(jnp.abs(weights).sum()) ** 2, rel=1e-10)


def test_the_penalty_of_a_quadratic_score_tends_to_its_gradient_norm():
    with jax.enable_x64(True):
        images, step = jnp.asarray(IMAGES, float), 1e-3
        value = norm_penalty(lambda x: (x**2).sum((1, 2, 3)) / 2, images, step=step, scale_free=False)
        # ((f(x + hv) - f(x)) / h) = ‖x‖₁ + h n / 2, exactly, since the gradient is x > 0
        expected = jnp.mean((images.sum((1, 2, 3)) + step * images[0].size / 2) ** 2) / 2
        assert float(value) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.slow
def test_with_scale_free_the_penalty_does_not_depend_on_the_scale_of_scores():
    def price(scale, shift, scale_free):
        return norm_penalty(
            Partial(lambda a, b, x: a * jnp.tanh(linear(x) / 20) + b, scale, shift), IMAGES, scale_free=scale_free
        )

    assert float(price(0.01, 7.0, True)) == pytest.approx(float(price(1.0, 0.0, True)), rel=2e-3)
    slope, fixed = (jax.grad(price)(1.0, 0.0, scale_free) for scale_free in (False, True))
    assert float(slope) == pytest.approx(2 * float(price(1.0, 0.0, False)), rel=1e-4)
    assert abs(float(fixed)) < 1e-4 * float(price(1.0, 0.0, True))


def test_the_penalty_does_not_differentiate_its_direction():
    def price(exponent):
        return norm_penalty(Partial(lambda e, x: (jnp.abs(x) ** e).sum((1, 2, 3)), exponent), IMAGES, scale_free=False)

    # v = sign ∇f = 1 everywhere, so this is the derivative with v held.
    held = lambda e: jnp.mean((((IMAGES + 0.01) ** e - IMAGES**e).sum((1, 2, 3)) / 0.01) ** 2) / 2  # noqa: E731
    np.testing.assert_allclose(jax.grad(price)(1.5), jax.grad(held)(1.5), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"), [({"step": 0.0}, "step"), ({"weight": -1.0}, "weight"), ({"count": 1}, "one image")]
)
def test_bad_arguments_of_the_penalty_are_refused(options, message):
    count = options.pop("count", 4)
    with pytest.raises(ValueError, match=message):
        norm_penalty(linear, IMAGES[:count], **options)


def test_without_clean_images_only_the_attacked_ones_are_left():
    both, labels = batch("ssim")
    attacked, fewer = batch("ssim", clean=False)
    np.testing.assert_array_equal(attacked, both[:4])
    np.testing.assert_array_equal(fewer, labels[:4])


@pytest.mark.slow
def test_either_direction_moves_scores_up_and_down_by_the_same_amount():
    """The FGSM of a linear score moves it by ε ‖w‖₁; the sign is a property of the image's key alone."""
    keys = jax.random.split(jax.random.key(5), 64)
    images = jnp.full((64, 17, 22, 3), 0.5)

    def moved(order):
        attacked, _ = adversarial_batch(
            attacks.make("fgsm", epsilon=8 / 255),
            linear,
            images,
            jnp.arange(64.0)[order],
            keys[order],
            low=0.0,
            high=63.0,
            distance=LABELS["unchanged"],
            target="either",
            clean=False,
        )
        return np.asarray(linear(attacked) - linear(images))

    change = moved(np.arange(64))
    np.testing.assert_allclose(np.abs(change), 8 / 255 * float(jnp.abs(WEIGHTS).sum()), rtol=1e-4)
    assert 16 < (change > 0).sum() < 48
    np.testing.assert_allclose(moved(np.arange(64)[::-1]), change[::-1], rtol=1e-4)


def test_perturbations_are_multiplied_by_shares_from_the_weakest_to_one():
    full, _ = batch("unchanged", clean=False)
    some, _ = batch("unchanged", clean=False, weakest=0.25)
    shares = np.asarray((some - IMAGES) / (full - IMAGES))
    share = shares.mean((1, 2, 3))
    np.testing.assert_allclose(shares, np.broadcast_to(share[:, None, None, None], shares.shape), atol=1e-4)
    assert ((share >= 0.25) & (share <= 1)).all()
    assert len(np.unique(share.round(3))) == 4
    with pytest.raises(ValueError, match=r"weakest=1.5 is outside \[0.0, 1.0\]"):
        batch("unchanged", weakest=1.5)
