"""Checks for gradient masking: which metrics raise which flag."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from small_metric import KEY, make_images, score

from jaxiqa import attacks
from jaxiqa.attacks import PGD, check_masking
from jaxiqa.attacks.wrappers.masking import REMEDIES

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def flags(score_fn, **options):
    found = check_masking(score_fn, make_images((4, 13, 14, 3)), KEY, queries=60, **options)
    return {check.name for check in found if check.flagged}


@pytest.mark.slow
def test_a_metric_without_masking_raises_no_flag():
    assert flags(score) == set()


@pytest.mark.slow
def test_a_too_large_step_size_raises_no_flag():
    """Steps of a quarter gain less than small ones on a metric without masking; this must raise no flag."""

    def narrow(x):
        return jnp.sin(40 * x).mean((1, 2, 3))

    images = make_images((4, 13, 14, 3))
    clean = narrow(images)
    attacked = [PGD(epsilon, random_start=False)(narrow, images, KEY) for epsilon in (8 / 255, 1.0)]
    bounded, overshot = (float((narrow(x) - clean).mean()) for x in attacked)
    assert bounded > 0.9 * overshot  # this would raise the flag
    found = check_masking(narrow, images, KEY, queries=60)
    (check,) = (check for check in found if check.name == "unbounded attack does not saturate")
    assert not check.flagged
    assert check.value < 0.9
    assert str(check).endswith("passed")
    assert len(found) == 6


@pytest.mark.slow
def test_each_kind_of_masking_raises_its_flag():
    rounded = lambda x: score(jnp.round(x * 8) / 8)  # noqa: E731
    assert {"gradient is zero", "noise beats pgd", "unbounded attack does not saturate"} <= flags(rounded)

    def shattered(x):  # a gradient of the wrong sign
        return score(2 * jax.lax.stop_gradient(x) - x)

    assert {"noise beats pgd", "square beats pgd"} <= flags(shattered)
    assert flags(lambda x: score(x) + jnp.sqrt(0 * x.sum((1, 2, 3)))) == {"gradient is not finite"}

    def random(images, key):
        return score(images + 0.3 * jax.random.normal(key, images.shape))

    assert flags(lambda x: random(x, KEY), keyed_score=random) == {"score changes with the key"}


def test_every_flag_has_a_remedy_in_the_page_on_attacks():
    page = PAGE.read_text()
    for name in REMEDIES:
        assert f"**{name}**" in page


def test_every_attack_has_its_line_in_the_page_on_attacks():
    page = PAGE.read_text()
    for name in attacks.ATTACKS:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| `{attacks.strength_option(name)}` |" in line
    for name in attacks.FITTED:
        assert f"| `{name}` (fitted) |" in page
