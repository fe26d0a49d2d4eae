"""Properties of single white-box attacks: MADC, Korhonen, Zhang, SSAH."""

import jax.numpy as jnp
import numpy as np
import pytest
from white_box import KEY, make_images, score, squared

from jaxiqa.attacks.korhonen import Korhonen, spatial_activity
from jaxiqa.attacks.madc import MADC
from jaxiqa.attacks.ssah import SSAH
from jaxiqa.attacks.stadv import StAdv
from jaxiqa.attacks.zhang import Zhang
from jaxiqa.ops.edges import dilate, sobel
from jaxiqa.ops.wavelet import haar_low

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py


def rmse(images, clean):
    return jnp.sqrt(squared(images, clean))


@pytest.mark.parametrize("variant", ["paper", "benchmark"])
def test_madc_stays_within_its_rmse(variant):
    images = make_images()
    attacked = MADC(step_size=0.1, max_rmse=0.04, variant=variant)(score, images, KEY)
    np.testing.assert_allclose(rmse(attacked, images), 0.04, atol=5e-4)
    assert (rmse(attacked, images) <= 0.04 + 1e-6).all()


def test_madc_raises_the_score_at_nearly_constant_distortion():
    """From the second step on, steps are orthogonal to the distortion: more gain at nearly the same RMSE."""
    images = make_images()
    curved = lambda x: jnp.sin(9 * x + jnp.arange(3.0)).mean((1, 2, 3))  # noqa: E731
    one, ten = (MADC(step_size=0.03, steps=steps)(curved, images, KEY) for steps in (1, 10))
    np.testing.assert_allclose(rmse(one, images), 0.03, atol=2e-3)
    gain = (curved(ten) - curved(images)) / (curved(one) - curved(images))
    assert (gain > rmse(ten, images) / rmse(one, images)).all()


def test_madc_on_a_linear_score_stops_after_one_step():
    images = 0.4 + 0.2 * make_images()
    weights = np.random.default_rng(2).normal(size=images.shape[1:]).astype(np.float32)
    attacked = MADC(step_size=0.02)(lambda x: (x * weights).sum((1, 2, 3)), images, KEY)
    expected = images + 0.02 * weights / np.sqrt(np.mean(weights**2))
    np.testing.assert_allclose(attacked, expected, atol=1e-5)


def test_madc_ends_if_its_corrections_cannot_reach_the_rmse():
    attacked = MADC(step_size=0.01, max_rmse=1e-5, variant="benchmark", steps=2)(score, make_images(), KEY)
    assert np.isfinite(attacked).all()


@pytest.mark.parametrize("size", [(3, 3), (6, 11), (9, 4)])
def test_edges_equal_scipy(size):
    from scipy import ndimage

    plane = np.random.default_rng(0).normal(size=size).astype(np.float32)
    for axis in (0, 1):
        np.testing.assert_allclose(sobel(jnp.asarray(plane), axis), ndimage.sobel(plane, axis), atol=1e-5)
    footprint = np.ones((5, 5), bool)
    footprint[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    np.testing.assert_array_equal(dilate(jnp.asarray(plane)), ndimage.grey_dilation(plane, footprint=footprint))


def test_korhonen_changes_pixels_near_edges_only():
    images = jnp.full((1, 12, 20, 3), 0.3).at[:, :, 4:].set(0.6)
    mask = spatial_activity(images[0])
    assert float(mask.max()) == 1
    np.testing.assert_array_equal(mask[:, 8:], 0)
    changed = jnp.abs(Korhonen(steps=5)(lambda x: x.mean((1, 2, 3)), images, KEY) - images)[0].max(-1)
    np.testing.assert_array_equal(changed > 0, mask > 0)
    np.testing.assert_allclose(changed, 5 * 5e-3 * mask, atol=1e-4)


def test_korhonen_keeps_the_best_image_and_returns_a_flat_one():
    images = make_images()
    peak = lambda x: -jnp.mean((x - images) ** 2, (1, 2, 3)) + 0.01 * score(x)  # noqa: E731
    attacked = Korhonen(step_size=0.2, steps=9, score_scale=1.0)(peak, images, KEY)
    assert (peak(attacked) >= peak(images)).all()
    flat = jnp.full((1, 5, 6, 3), 0.5)
    for variant in ("paper", "benchmark"):
        np.testing.assert_array_equal(Korhonen(steps=2, variant=variant)(score, flat, KEY), flat)


def test_a_larger_distance_weight_keeps_zhang_nearer_to_the_image():
    images = make_images()
    cheap, dear = (Zhang(squared, score_scale=1.0, distance_weight=w, steps=40)(score, images, KEY) for w in (0.1, 100))
    assert (score(cheap) > score(dear)).all()
    assert (squared(dear, images) < 0.3 * squared(cheap, images)).all()


def test_a_larger_low_band_weight_moves_ssah_to_high_frequencies():
    images = make_images()
    free, dear = (SSAH(score_scale=1.0, low_weight=w, step_size=0.01, steps=30)(score, images, KEY) for w in (0.0, 1e3))
    low = [float(jnp.abs(haar_low(x) - haar_low(images)).mean()) for x in (free, dear)]
    assert low[1] < 0.2 * low[0]
    assert (score(dear) > score(images) + 1e-4).all()


def test_a_constant_score_leaves_every_pixel_unchanged():
    images = make_images()
    constant = lambda x: 0 * x.mean((1, 2, 3)) + 3  # noqa: E731
    np.testing.assert_allclose(StAdv(variant="benchmark")(constant, images, KEY), images, atol=1e-6)
