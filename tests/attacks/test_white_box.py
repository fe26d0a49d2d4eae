"""MADC, Korhonen, Zhang, SSAH and stAdv: their contract, the benchmark's numbers, properties of single attacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from white_box import KEY, make_images, score, squared

from jaxiqa.attacks.apgd import APGD
from jaxiqa.attacks.korhonen import Korhonen
from jaxiqa.attacks.madc import MADC
from jaxiqa.attacks.ssah import SSAH
from jaxiqa.attacks.stadv import StAdv
from jaxiqa.attacks.zhang import Zhang
from jaxiqa.core.keys import image_keys

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py


def make(name, variant, objective="raise", steps=3):
    options = {"variant": variant, "objective": objective, "steps": steps}
    return {
        "madc": lambda: MADC(**options),
        "korhonen": lambda: Korhonen(score_scale=1.0, **options),
        "zhang": lambda: Zhang(squared, score_scale=1.0, **options),
        "ssah": lambda: SSAH(score_scale=1.0, **options),
        "stadv": lambda: StAdv(score_scale=1.0, **options),
        "apgd": lambda: APGD(4 / 255, steps=steps, objective=objective),
    }[name]()


VARIANTS = [
    (name, variant) for name in ("madc", "korhonen", "zhang", "ssah", "stadv") for variant in ("paper", "benchmark")
]


ALL = [*VARIANTS, ("apgd", "paper")]


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_attack_passes_the_contract_in_both_variants(name, variant):
    images = make_images()
    attack = make(name, variant)
    assert hasattr(attack, attack.strength)
    attacked = attack(score, images, KEY)
    assert attacked.dtype == images.dtype
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    np.testing.assert_array_equal(attacked, attack(score, images, KEY))
    assert (score(attacked) > score(images) + 1e-4).all()
    np.testing.assert_allclose(jax.jit(lambda attack, x: attack(score, x, KEY))(attack, images), attacked, atol=1e-5)
    alone = attack(score, images[1:], image_keys(KEY, 2)[1:])
    np.testing.assert_allclose(alone[0], attacked[1], atol=1e-5)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_score_can_be_lowered_too(name, variant):
    images = make_images()
    assert (score(make(name, variant, "lower")(score, images, KEY)) < score(images) - 1e-4).all()


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_score_that_is_not_finite_is_reported(name, variant):
    def broken(images):
        return jnp.where(jnp.arange(len(images)) == 1, jnp.nan, 1.0) * images.mean((1, 2, 3))

    with pytest.raises(ValueError, match="images 1 of 2"):
        make(name, variant)(broken, make_images(), KEY)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_images_of_few_pixels_are_attacked_or_refused(name, variant):
    smallest = {"korhonen": 3, "stadv": 2}.get(name, 1)
    attack = make(name, variant, steps=1)
    flat = lambda images: images.mean((1, 2, 3))  # noqa: E731
    assert np.isfinite(attack(flat, make_images((1, smallest, smallest + 1, 3)), KEY)).all()
    if smallest > 1:
        with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
            attack(flat, make_images((1, smallest - 1, 5, 3)), KEY)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_variant_has_its_own_defaults(name, variant):
    steps = {"madc": (10, 8), "korhonen": (50, 10), "zhang": (200, 10), "ssah": (150, 10), "stadv": (20, 3)}
    assert make(name, variant, steps=None).steps == steps[name][variant == "benchmark"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "papr"}, "variant='papr'.*'paper'"),
        ({"steps": 0}, "steps"),
        ({"step_size": -1.0}, "step_size"),
        ({"score_scale": 0.0}, "score_scale"),
        ({"objective": "up"}, "objective"),
    ],
)
def test_errors_name_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SSAH(**options)
