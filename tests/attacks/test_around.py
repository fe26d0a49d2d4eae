"""What stands around the attacks: objectives, bounds, alignment of strengths, signs of masked gradients."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa import attacks
from jaxiqa.attacks import PGD, align, align_levels, check_masking, make, sweep
from jaxiqa.attacks.align import MEASURES
from jaxiqa.attacks.masking import REMEDIES
from jaxiqa.attacks.objective import MoveTo, outrank

KEY = jax.random.key(3)
WEIGHTS = jax.random.normal(jax.random.key(9), (3, 3, 3, 4)) / 3


def smooth(images):
    x = jax.lax.conv_general_dilated(images, WEIGHTS, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(x).mean((1, 2)) @ jnp.array([1.0, -2.0, 0.5, 1.5])


def pictures(shape=(3, 13, 14, 3)):
    return jax.random.uniform(jax.random.key(0), shape)


def test_a_score_is_moved_to_a_given_one_from_either_side():
    images = pictures()
    clean = smooth(images)
    target = clean + jnp.array([0.02, -0.02, 0.0])
    attack = PGD(0.1, steps=40, step_size=5e-4, random_start=False, objective=MoveTo(target))
    np.testing.assert_allclose(smooth(attack(smooth, images, KEY)), target, atol=2e-3)


def test_a_pair_changes_its_order_whichever_was_better():
    images = pictures((2, 13, 14, 3))
    scores = smooth(images)
    partners = scores + jnp.array([0.01, -0.01])
    attacked = smooth(PGD(8 / 255, objective=outrank(scores, partners))(smooth, images, KEY))
    assert attacked[0] > partners[0]
    assert attacked[1] < partners[1]
    with pytest.raises(Exception, match="others"):
        outrank(scores, partners[:1])


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0), (0.25, 0.75)])
def test_other_bounds_give_the_same_pictures(low, high):
    images = pictures()
    expected = make("pgd", epsilon=8 / 255, steps=3)(smooth, images, KEY)
    scaled = make("pgd", epsilon=8 / 255, steps=3, bounds=(low, high))
    back = lambda x: smooth((x - low) / (high - low))  # noqa: E731
    found = scaled(back, low + (high - low) * images, KEY)
    # A sign may flip where a gradient is rounding.
    close = np.abs((found - low) / (high - low) - expected) < 1e-5
    assert close.mean() > 0.99
    assert float(found.min()) >= low
    assert float(found.max()) <= high
    many = sweep(scaled, back, low + (high - low) * images, KEY, [8 / 255, 4 / 255])
    np.testing.assert_allclose(many[0], found, atol=1e-5 * (high - low))
    with pytest.raises(ValueError, match="images has values in"):
        scaled(back, low + (high - low) * images * 2, KEY)


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        make("pgd", epsilon=0.1, bounds=(1.0, 0.0))


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_alignment_reaches_its_targets_and_stronger_is_more_visible(measure):
    images = pictures()
    attack = make("ifgsm", epsilon=8 / 255, steps=2)
    levels = align_levels(attack, smooth, images, KEY, measure)
    strengths = [levels[level].strength for level in ("weak", "medium", "strong")]
    assert strengths == sorted(strengths)
    for found in levels.values():
        reached = float(MEASURES[measure](images, found.attack(smooth, images, KEY)).mean())
        assert reached == pytest.approx(found.reached, rel=1e-5)
        assert reached == pytest.approx(found.target[1], rel=0.05)


def test_levels_share_what_was_run():
    ran, said = [], []

    @dataclass(frozen=True)
    class Shift:
        epsilon: float
        strength: ClassVar[str] = "epsilon"

        def __call__(self, score_fn, images, key):
            ran.append(self.epsilon)
            return images + self.epsilon

    progress = lambda *numbers: said.append(numbers)  # noqa: E731
    levels = align_levels(Shift(0.01), smooth, pictures() / 2, KEY, "linf", ladder=[0.001, 0.1], progress=progress)
    assert [round(255 * found.strength, 2) for found in levels.values()] == pytest.approx([2, 4, 8], rel=0.01)
    assert len(ran) == len(set(ran)) == 5
    assert said == [(done, 2 + 3 * 4) for done in range(1, 6)]


def test_a_target_off_the_ladder_is_an_error_that_shows_the_ladder():
    with pytest.raises(ValueError, match=r"ladder \(0\.01: .*, 0\.02: .*\)"):
        align(make("ifgsm", epsilon=0.01), smooth, pictures(), KEY, ("linf", 0.5), ladder=[0.01, 0.02])
    with pytest.raises(ValueError, match="'psnr'"):
        align(make("ifgsm", epsilon=0.01), smooth, pictures(), KEY, ("mse", 0.5))


def flags(score_fn, **options):
    found = check_masking(score_fn, pictures((4, 13, 14, 3)), KEY, queries=60, **options)
    return {check.name for check in found if check.flagged}


def test_an_open_metric_raises_no_flag():
    assert flags(smooth) == set()


def test_a_step_size_that_overshoots_is_no_sign_of_masking():
    """Steps of a quarter leave what a plain metric gains by small ones; a flag was raised for that."""

    def narrow(x):
        return jnp.sin(40 * x).mean((1, 2, 3))

    images = pictures((4, 13, 14, 3))
    clean = narrow(images)
    attacked = [PGD(epsilon, random_start=False)(narrow, images, KEY) for epsilon in (8 / 255, 1.0)]
    bounded, overshot = (float((narrow(x) - clean).mean()) for x in attacked)
    assert bounded > 0.9 * overshot  # so a flag would be raised
    found = check_masking(narrow, images, KEY, queries=60)
    (check,) = (check for check in found if check.name == "unbounded attack does not saturate")
    assert not check.flagged
    assert check.value < 0.9
    assert str(check).endswith("passed")
    assert len(found) == 6


def test_masked_metrics_are_told_apart():
    rounded = lambda x: smooth(jnp.round(x * 8) / 8)  # noqa: E731
    assert {"gradient is zero", "noise beats pgd", "unbounded attack does not saturate"} <= flags(rounded)

    def shattered(x):  # a gradient of the wrong sign
        return smooth(2 * jax.lax.stop_gradient(x) - x)

    assert {"noise beats pgd", "square beats pgd"} <= flags(shattered)
    assert flags(lambda x: smooth(x) + jnp.sqrt(0 * x.sum((1, 2, 3)))) == {"gradient is not finite"}

    def random(images, key):
        return smooth(images + 0.3 * jax.random.normal(key, images.shape))

    assert flags(lambda x: random(x, KEY), keyed_score=random) == {"score changes with the key"}


def test_every_flag_has_a_remedy_in_the_page_on_attacks():
    from pathlib import Path

    page = (Path(attacks.__file__).parent.parent.parent / "docs" / "attacks.md").read_text()
    for name in REMEDIES:
        assert f"**{name}**" in page


def test_every_attack_has_its_line_in_the_page_on_attacks():
    from pathlib import Path

    page = (Path(attacks.__file__).parent.parent.parent / "docs" / "attacks.md").read_text()
    for name, attack in attacks.ATTACKS.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| `{getattr(attack, 'strength', 'epsilon')}` |" in line
    for name in attacks.FITTED:
        assert f"| `{name}` (fitted) |" in page
