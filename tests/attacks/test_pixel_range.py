"""Attacks on pixels of other ranges than [0, 1]."""

import numpy as np
import pytest
from small_metric import KEY, make_images, score

from jaxiqa.attacks import make, sweep

SHAPE = (3, 13, 14, 3)


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0), (0.25, 0.75)])
def test_other_bounds_give_the_same_images(low, high):
    images = make_images(SHAPE)
    expected = make("pgd", epsilon=8 / 255, steps=3)(score, images, KEY)
    scaled = make("pgd", epsilon=8 / 255, steps=3, bounds=(low, high))
    back = lambda x: score((x - low) / (high - low))  # noqa: E731
    found = scaled(back, low + (high - low) * images, KEY)
    # A sign may flip where the gradient is only rounding.
    close = np.abs((found - low) / (high - low) - expected) < 1e-5
    assert close.mean() > 0.99
    assert float(found.min()) >= low
    assert float(found.max()) <= high
    many = sweep(scaled, back, low + (high - low) * images, KEY, [8 / 255, 4 / 255])
    np.testing.assert_allclose(many[0], found, atol=1e-5 * (high - low))
    with pytest.raises(ValueError, match="images has values in"):
        scaled(back, low + (high - low) * images * 2, KEY)


def test_reversed_bounds_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        make("pgd", epsilon=0.1, bounds=(1.0, 0.0))
