"""Black-box attacks: their contract, and the gain they must reach on scores with a known optimum."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from black_box import KEY, linear, make_images, wavy, weights

from jaxiqa.attacks.nes import NES
from jaxiqa.attacks.one_pixel import OnePixel
from jaxiqa.attacks.parsimonious import Parsimonious
from jaxiqa.attacks.patch_rs import PatchRS
from jaxiqa.attacks.square import Square
from jaxiqa.core.keys import image_keys

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py


EPSILON = 8 / 255


ATTACKS = {
    "nes": NES(EPSILON, steps=6, pairs=5),
    "nes_benchmark": NES(EPSILON, steps=6, pairs=5, variant="benchmark"),
    "square": Square(EPSILON, queries=40),
    "square_benchmark": Square(EPSILON, queries=40, variant="benchmark"),
    "square_l2": Square(0.6, queries=40, norm="l2"),
    "parsimonious": Parsimonious(EPSILON, queries=40, block=4),
    "parsimonious_benchmark": Parsimonious(EPSILON, queries=40, variant="benchmark"),
    "one_pixel": OnePixel(3, population=8, generations=4),
    "one_pixel_benchmark": OnePixel(3, population=8, generations=4, variant="benchmark"),
    "patch_rs": PatchRS(9, queries=40),
}


BUDGETS = {"nes": 62, "nes_benchmark": 62, "one_pixel": 41, "one_pixel_benchmark": 41}


@pytest.mark.parametrize("name", ATTACKS)
def test_black_box_attacks_keep_the_budget_the_ball_and_the_best_image(name):
    attack, images = ATTACKS[name], make_images()
    result = attack.run(wavy, images, KEY)
    change = result.images - images
    assert result.images.dtype == images.dtype
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    if name == "square_l2":
        assert float(jnp.linalg.norm(change.reshape(3, -1), axis=1).max()) <= 0.6 + 1e-6
    elif attack.strength == "epsilon":
        assert float(jnp.abs(change).max()) <= EPSILON + 1e-6
    np.testing.assert_array_equal(result.queries, BUDGETS.get(name, 40))
    np.testing.assert_allclose(result.scores, wavy(result.images), atol=1e-6)
    gains = result.scores - wavy(images)
    # If the start is worse than the clean image, a few dozen queries may not suffice: the clean image is returned.
    assert (gains > 0).all() if attack.estimates_gradient else (gains >= 0).all()
    np.testing.assert_array_equal(attack(wavy, images, KEY), result.images)
    alone = attack(wavy, images[2:], image_keys(KEY, 3)[2:])
    # The benchmark's NES divides by the length of a difference of scores at σ = 0.001, which is near rounding.
    np.testing.assert_allclose(alone[0], result.images[2], atol=2e-4 if name == "nes_benchmark" else 1e-5)


@pytest.mark.parametrize("name", ["nes", "square", "parsimonious", "one_pixel", "patch_rs"])
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_black_box_attacks_work_on_tiny_images(name, size):
    small = {"nes": {"steps": 2}, "one_pixel": {"generations": 1}, "patch_rs": {"area": 1}}.get(name, {})
    small |= {} if name in ("nes", "one_pixel") else {"queries": 6}
    images = make_images((1, *size, 3))
    assert replace(ATTACKS[name], **small)(wavy, images, KEY).shape == images.shape


def test_images_too_small_for_a_window_or_patch_are_refused():
    with pytest.raises(ValueError, match="at least 3 pixels"):
        Square(0.5, norm="l2")(wavy, make_images((1, 2, 9, 3)), KEY)
    with pytest.raises(ValueError, match="at least 20 pixels"):
        PatchRS(400)(wavy, make_images((1, 19, 30, 3)), KEY)


def cosine(x, y):
    return float((x * y).sum() / jnp.linalg.norm(x) / jnp.linalg.norm(y))


def test_nes_steps_along_the_gradient():
    """A step of the benchmark variant is the estimate itself; n pairs in d dimensions give a cosine of √(n/(n+d))."""
    images = 0.25 + make_images((1, 6, 5, 3)) / 2
    attack = NES(1.0, steps=1, pairs=1000, batch_size=2000, variant="benchmark")
    moved = attack(wavy, images, KEY) - images
    gradient = jax.grad(lambda x: wavy(x).sum())(images)
    assert abs(cosine(moved, gradient) - math.sqrt(1000 / 1090)) < 0.03
    assert abs(float(jnp.linalg.norm(moved)) - 0.1) < 1e-6


def test_nes_follows_the_sign_and_halves_its_rate_without_gain():
    images = 0.25 + make_images((1, 6, 5, 3)) / 2
    attack = NES(0.05, steps=1, pairs=1000, batch_size=2000)
    moved = attack(wavy, images, KEY) - images
    agree = jnp.sign(moved) == jnp.sign(jax.grad(lambda x: wavy(x).sum())(images))
    assert float(agree.mean()) > 0.85
    np.testing.assert_allclose(jnp.abs(moved), 0.01, atol=1e-6)
    state = attack.start(images[0], 0.0, KEY)
    rates = []
    for value in [5.0, 4, 3, 2, 1, 1, 1, 1, 0, 0]:
        noise = jnp.ones((2, 6, 5, 3))
        state = replace(attack, pairs=1).accept(state, images[0], noise, jnp.full(2, value), 0)
        rates.append(float(state.rate))
    np.testing.assert_allclose(rates, [0.01] * 4 + [0.005] * 5 + [0.0025])


def test_nes_in_the_benchmark_variant_repeats_its_noise_every_32_pixels():
    images = jnp.full((1, 40, 70, 3), 0.5)
    moved = (NES(1.0, steps=1, pairs=2, variant="benchmark")(wavy, images, KEY) - images)[0]
    np.testing.assert_allclose(moved[:8], moved[32:], atol=1e-6)
    np.testing.assert_allclose(moved[:, :38], moved[:, 32:], atol=1e-6)
    assert float(jnp.abs(moved[:8] - moved[8:16]).max()) > 1e-4


@pytest.mark.parametrize("variant", ["paper", "benchmark"])
def test_one_pixel_changes_no_more_pixels_than_allowed_and_finds_their_colour(variant):
    images = make_images((2, 6, 11, 3)) / 2
    attack = OnePixel(2, population=40, generations=40, variant=variant)
    result = attack.run(lambda x: x.sum((1, 2, 3)), images, KEY)
    changed = (result.images != images).any(-1).sum((1, 2))
    assert (changed <= 2).all()
    gain = result.scores - images.sum((1, 2, 3))
    best = jnp.sort((3 - images.sum(-1)).reshape(2, -1), axis=1)[:, -2:].sum(1)
    assert (gain > 0.85 * best).all()
    assert (result.queries == 1641).all()


def test_the_last_of_two_pixels_at_one_position_is_drawn():
    genes = jnp.array([[0.5, 0.5, 0.1, 0.1, 0.1], [0.0, 0.99, 0.2, 0.2, 0.2], [0.5, 0.5, 0.3, 0.3, 0.3]])
    image = OnePixel(3).render(None, jnp.zeros((3, 3, 3)), genes)
    np.testing.assert_allclose(image[..., 0], np.array([[0, 0, 0.2], [0, 0.3, 0], [0, 0, 0]]))


def test_one_pixel_in_the_benchmark_variant_has_scipys_populations():
    for pixels, population in ((10, 300), (20, 300), (40, 200)):
        attack = OnePixel(pixels, variant="benchmark")
        assert (attack.candidates, attack.iterations) == (population, 11)
    assert (OnePixel().candidates, OnePixel().iterations) == (400, 101)


def test_patch_rs_changes_one_square_to_pure_colours():
    images = 0.1 + 0.8 * make_images((3, 9, 14, 3))
    direction = weights((9, 14, 3))
    result = PatchRS(11, queries=300).run(linear(direction), images, KEY)  # 11 pixels hold a square of 3×3
    for image, attacked in zip(images, result.images, strict=True):
        rows, columns = np.nonzero(np.asarray((attacked != image).any(-1)))
        assert len(rows) == 9
        assert np.ptp(rows) == np.ptp(columns) == 2
        patch = np.asarray(attacked)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.isin(patch, (0, 1)).all()
    gains = direction * (direction > 0) - images * direction  # of the best colour in each place
    places = jax.lax.reduce_window(gains.sum(-1), 0.0, jax.lax.add, (1, 3, 3), (1, 1, 1), "VALID")
    assert (result.scores - linear(direction)(images) > 0.7 * places.max((1, 2))).all()


def test_patch_rs_returns_the_clean_image_if_every_patch_lowers_the_score():
    images = make_images((1, 9, 14, 3))
    attack = PatchRS(9, queries=20)
    result = attack.run(lambda x: -jnp.abs(x - images).sum((1, 2, 3)), images, KEY)
    np.testing.assert_array_equal(result.images, images)
    assert float(result.scores[0]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NES(EPSILON, pairs=0), "pairs"),
        (lambda: NES(EPSILON, sigma=0.0), "sigma"),
        (lambda: NES(EPSILON, variant="fast"), "variant"),
        (lambda: Square(EPSILON, queries=1), "queries"),
        (lambda: Square(EPSILON, share=0.0), "share"),
        (lambda: Square(EPSILON, norm="l2", variant="benchmark"), "variant"),
        (lambda: Parsimonious(EPSILON, block=24), "block"),
        (lambda: Parsimonious(EPSILON, candidates=65), "candidates"),
        (lambda: Parsimonious(8.0), "epsilon"),
        (lambda: OnePixel(0), "pixels"),
        (lambda: OnePixel(population=3), "population"),
        (lambda: PatchRS(0), "area"),
        (lambda: PatchRS(batch_size=0), "batch_size"),
    ],
)
def test_errors_name_the_bad_option_of_a_black_box_attack(make, message):
    with pytest.raises(ValueError, match=message):
        make()
