"""Alignment of attack strengths by a measure of the change."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from small_metric import KEY, make_images, score

from jaxiqa.attacks import align, align_levels, make
from jaxiqa.attacks.wrappers.align import MEASURES

SHAPE = (3, 13, 14, 3)


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_alignment_reaches_its_targets(measure):
    images = make_images(SHAPE)
    attack = make("ifgsm", epsilon=8 / 255, steps=2)
    levels = align_levels(attack, score, images, KEY, measure)
    strengths = [levels[level].strength for level in ("weak", "medium", "strong")]
    assert strengths == sorted(strengths)
    for found in levels.values():
        reached = float(MEASURES[measure](images, found.attack(score, images, KEY)).mean())
        assert reached == pytest.approx(found.reached, rel=1e-5)
        assert reached == pytest.approx(found.target[1], rel=0.05)


def test_levels_share_attack_runs():
    ran, said = [], []

    @dataclass(frozen=True)
    class Shift:
        epsilon: float
        strength: ClassVar[str] = "epsilon"

        def __call__(self, score_fn, images, key):
            ran.append(self.epsilon)
            return images + self.epsilon

    progress = lambda *numbers: said.append(numbers)  # noqa: E731
    images, ladder = make_images(SHAPE) / 2, [0.001, 0.1]
    levels = align_levels(Shift(0.01), score, images, KEY, "linf", ladder=ladder, progress=progress)
    assert [round(255 * found.strength, 2) for found in levels.values()] == pytest.approx([2, 4, 8], rel=0.01)
    assert len(ran) == len(set(ran)) == 5
    assert said == [(done, 2 + 3 * 4) for done in range(1, 6)]


def test_a_target_outside_the_ladder_is_an_error_that_shows_the_ladder():
    with pytest.raises(ValueError, match=r"ladder .*\(0\.01: .*, 0\.02: .*\)"):
        align(make("ifgsm", epsilon=0.01), score, make_images(SHAPE), KEY, ("linf", 0.5), ladder=[0.01, 0.02])
    with pytest.raises(ValueError, match="'psnr'"):
        align(make("ifgsm", epsilon=0.01), score, make_images(SHAPE), KEY, ("mse", 0.5))
