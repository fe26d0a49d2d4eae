"""A metric that becomes NaN during an attack: every attack of the registry raises the same error."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from quick import every
from small_metric import KEY, make_images, score
from test_attacks import FITTING, NAMES, an_attack

from jaxiqa.attacks import FITTED, OneByOne, from_callable

SAID = (
    r"score_fn gave non-finite scores or gradients (during the attack on images .* of \d|at step \d+ of \d+, on images)"
)
COUNTS = {"nes": True, "square": True, "parsimonious": True, "one_pixel": True, "patch_rs": True}
"""The attacks that use scores only."""


CASES = [
    pytest.param("all", 3, jnp.nan, marks=pytest.mark.slow),
    ("one", 2, jnp.inf),
    ("some", 1, jnp.nan),
]


def turning(images, which, bad):
    """Return a metric that is not finite for changed images: for all, for changes of the last image, or for some."""

    def broken(asked):
        distance = jnp.abs(asked[:, None] - images[None]).mean((2, 3, 4))
        moved = distance.min(1) > 0
        chosen = {
            "all": moved,
            "one": moved & (distance.argmin(1) == len(images) - 1),
            "some": moved & (jnp.abs(jnp.sin(1e4 * asked.sum((1, 2, 3)))) > 0.6),
        }[which]
        return jnp.where(chosen, bad, score(asked))

    return broken


@pytest.mark.slow
@pytest.mark.parametrize("name", every(5, [name for name in NAMES if name != "fgsm"]))
@pytest.mark.parametrize(("which", "count", "bad"), CASES)
def test_every_attack_reports_non_finite_scores(name, which, count, bad):
    images = make_images((count, 9, 14, 3))
    run = partial(FITTED[name].fit, **FITTING[name]) if name in FITTED else an_attack(name, images)
    if which == "some" and name in ("madc", "facpa"):  # the images that they score happen to be finite
        assert name in FITTED or np.isfinite(score(run(turning(images, which, bad), images, KEY))).all()
        return
    with pytest.raises(ValueError, match=SAID):
        run(turning(images, which, bad), images, KEY)


def test_fgsm_scores_the_clean_image_only():
    images = make_images()
    assert np.isfinite(an_attack("fgsm", images)(turning(images, "all", jnp.nan), images, KEY)).all()
    with pytest.raises(ValueError, match=SAID):
        an_attack("fgsm", images)(lambda x: jnp.nan * score(x), images, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "stadv"])
def test_one_by_one_names_the_image(name):
    images = make_images()
    with pytest.raises(ValueError, match=rf"image 2 of 3: {SAID}"):
        OneByOne(an_attack(name, images))(turning(images, "one", jnp.nan), images, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(("count", "batch_size"), [(1, 5), (3, 12), (5, 64)])
def test_black_box_attacks_report_it_for_any_group_size_and_query(name, count, batch_size):
    images = make_images((count, 9, 14, 3))
    attack = an_attack(name, images, batch_size=batch_size)
    with pytest.raises(ValueError, match=rf"{SAID}"):
        attack(turning(images, "one", jnp.nan), images, KEY)
    asked = []

    def failing(pixels):
        asked.append(len(pixels))
        return np.where(len(asked) > 4, np.nan, np.asarray(score(jnp.asarray(pixels))))

    with pytest.raises(ValueError, match="tool returned a score that is not finite: nan"):
        attack(from_callable(failing, name="tool"), images, KEY)
    assert len(asked) == 5
