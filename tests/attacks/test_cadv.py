"""cAdv with a simple colourisation; its clusters are compared with SciPy, its hints are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks.cadv import CAdv, _start, even_colors, random_pixels
from jaxiqa.core.keys import image_keys
from jaxiqa.ops.clustering import kmeans
from jaxiqa.ops.color import lab_to_rgb, rgb_to_lab

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py

KEY = jax.random.key(4)


def spread(lightness, hints, mask):
    """Spread the masked hints over 3×3 pixels: a colourisation that is smooth in hints and mask."""
    total = hints * (mask + 0.5)
    for axis in (1, 2):
        total = total + jnp.roll(total, 1, axis) + jnp.roll(total, -1, axis)
    return 0.3 * jnp.tanh(total + 0.1 * lightness)


def redness(images):
    return 100 * (images[..., 0] - images[..., 1:].mean(-1)).mean((1, 2))


def make_images(count=3, size=(9, 14), seed=0):
    """Return images near grey: their recolouring stays in the RGB range."""
    return jax.random.uniform(jax.random.key(seed), (count, *size, 3), minval=0.35, maxval=0.65)


def test_k_means_finds_the_groups_and_moves_to_a_local_minimum():
    from scipy.cluster.vq import kmeans2

    random = np.random.default_rng(1)
    middles = np.array([[0, 0], [50, 0], [0, 50], [60, 60], [-50, 20]], np.float32)
    truth = random.integers(0, 5, 400)
    points = (middles[truth] + random.normal(size=(400, 2))).astype(np.float32)
    labels, centres = kmeans(jnp.asarray(points), KEY, 5)
    assert len({(int(a), int(b)) for a, b in zip(truth, labels, strict=True)}) == 5
    again, _ = kmeans2(points.astype(np.float64), np.asarray(centres, np.float64), minit="matrix", iter=1)
    np.testing.assert_allclose(centres, again, atol=1e-4)
    cloud = jnp.asarray(random.normal(size=(300, 2)), jnp.float32)
    labels, centres = kmeans(cloud, KEY, 4, steps=200)
    moved, nearest = kmeans2(np.asarray(cloud, np.float64), np.asarray(centres, np.float64), minit="matrix", iter=1)
    np.testing.assert_allclose(centres, moved, atol=1e-5)
    np.testing.assert_array_equal(labels, nearest)
    np.testing.assert_array_equal(labels, kmeans(cloud, KEY, 4, steps=200)[0])
    labels, centres = kmeans(jnp.ones((6, 2)), KEY, 3)  # fewer points than centres
    assert np.isfinite(centres).all()
    assert len(set(labels.tolist())) == 1


def test_hints_are_image_colors_from_the_clusters_of_lowest_variance():
    """Two flat areas on the left, two of random colours on the right: of four clusters the flat ones are chosen."""
    lab = np.full((48, 96, 3), 60.0, np.float32)
    lab[:, :24, 1:], lab[:, 24:48, 1:] = (-40, 40), (-40, -40)
    random = np.random.default_rng(0)
    lab[:, 48:72, 1:] = np.array([50, 40]) + random.uniform(-25, 25, (48, 24, 2))
    lab[:, 72:, 1:] = np.array([50, -40]) + random.uniform(-25, 25, (48, 24, 2))
    allowed = np.asarray(even_colors(jnp.asarray(lab[..., 1:]), KEY, clusters=4, chosen=2))
    assert allowed[:, :40].all()
    assert not allowed[:, 56:].any()
    images = jnp.asarray(make_images(2, (12, 17)))
    counts = {"clusters": 8, "chosen": 4, "hints": 20}
    lightness, variables = _start(images, image_keys(KEY, 2), **counts)
    lab, hinted = rgb_to_lab(images), np.asarray(variables[..., 2] == 0.5)
    np.testing.assert_allclose(lightness[..., 0], (lab[..., 0] - 50) / 100, atol=1e-6)
    assert hinted.sum((1, 2)).tolist() == [20, 20]
    assert (variables[..., 2][~hinted] == -0.5).all()
    np.testing.assert_allclose(variables[..., :2][hinted], lab[..., 1:][hinted] / 110, atol=1e-6)
    assert not variables[..., :2][~hinted].any()
    assert (hinted[0] != hinted[1]).any()


def test_random_pixels_are_drawn_evenly_from_the_allowed_ones():
    allowed = jnp.arange(12).reshape(3, 4) % 3 > 0
    drawn = jax.vmap(lambda key: random_pixels(allowed, key, 4))(jax.random.split(KEY, 4000))
    assert (drawn.sum((1, 2)) == 4).all()
    share = np.asarray(drawn.mean(0))
    assert not share[~np.asarray(allowed)].any()
    np.testing.assert_allclose(share[np.asarray(allowed)], 0.5, atol=0.04)


@pytest.mark.parametrize("variant", ["paper", "benchmark"])
def test_an_image_is_recolored_with_its_own_lightness_and_a_higher_score(variant):
    images = make_images()
    options = {"variant": variant, "step_size": 0.02}
    attacked = CAdv(spread, **options)(redness, images, KEY)
    assert attacked.shape == images.shape
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    start = CAdv(spread, steps=1, step_size=0.0, variant=variant)(redness, images, KEY)
    assert (redness(attacked) > redness(start) + 1).all()
    steps = {"paper": 50, "benchmark": 10}[variant]
    np.testing.assert_array_equal(attacked, CAdv(spread, steps=steps, **options)(redness, images, KEY))
    lowered = CAdv(spread, objective="lower", **options)(redness, images, KEY)
    assert (redness(lowered) < redness(start) - 1).all()
    inside = (attacked > 0).all(-1) & (attacked < 1).all(-1)
    difference = (rgb_to_lab(attacked) - rgb_to_lab(images))[..., 0]
    assert float(inside.mean()) > 0.3
    assert float(jnp.abs(difference[inside]).max()) < 0.2
    keys = image_keys(KEY, len(images))
    for i in range(len(images)):
        alone = CAdv(spread, **options)(redness, images[i : i + 1], keys[i : i + 1])[0]
        np.testing.assert_allclose(alone, attacked[i], atol=1e-5)


def test_cadv_under_jit_with_a_traced_step_size():
    images = make_images(2)
    traced = jax.jit(lambda size: CAdv(spread, step_size=size, steps=3)(redness, images, KEY))
    for size in (0.001, 0.05):
        np.testing.assert_allclose(traced(size), CAdv(spread, step_size=size, steps=3)(redness, images, KEY), atol=1e-5)


def test_the_first_step_is_adams_and_only_the_paper_variant_clips_it():
    """Adam's first step is the sign of the gradient; a large step leaves the range unless it is clipped."""
    images = make_images(2)
    lightness, start = _start(images, image_keys(KEY, 2), clusters=8, chosen=4, hints=50)

    @jax.jit
    def painted(variables):
        ab = spread(lightness, variables[..., :2], variables[..., 2:])
        return jnp.clip(lab_to_rgb(jnp.concatenate([100 * lightness + 50, 110 * ab], -1)), 0, 1)

    gradient = jax.jit(jax.grad(lambda variables: redness(painted(variables)).sum()))(start)
    moved = start + 0.7 * jnp.where(jnp.abs(gradient) > 1e-4, jnp.sign(gradient), gradient / (jnp.abs(gradient) + 1e-8))
    limit = jnp.array([1.0, 1.0, 0.5])
    assert float((jnp.abs(moved) > limit).mean()) > 0.05
    for variant, expected in (("benchmark", moved), ("paper", jnp.clip(moved, -limit, limit))):
        found = CAdv(spread, steps=1, step_size=0.7, variant=variant)(redness, images, KEY)
        np.testing.assert_allclose(found, painted(expected), atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9)])
def test_cadv_accepts_tiny_and_flat_images(size):
    for images in (make_images(1, size), *(jnp.full((1, *size, 3), value) for value in (0.5, 0.0, 1.0))):
        attacked = CAdv(spread, steps=2)(redness, images, KEY)
        assert attacked.shape == images.shape
        assert np.isfinite(attacked).all()


def test_cadv_reports_non_finite_scores_and_bad_options():
    def broken(images):
        return jnp.where(jnp.arange(len(images)) == 1, jnp.nan, 1.0) * redness(images)

    with pytest.raises(ValueError, match=r"non-finite .* on images 1 of 3"):
        CAdv(spread, steps=2)(broken, make_images(), KEY)
    with pytest.raises(ValueError, match=r"colorize returned shape \(3, 9, 14, 1\)"):
        CAdv(lambda lightness, hints, mask: mask, steps=2)(redness, make_images(), KEY)
    with pytest.raises(ValueError, match="expected 3 channels last"):
        CAdv(spread)(redness, jnp.zeros((1, 4, 4, 4)), KEY)
    for name, value in (
        ("steps", 0), ("clusters", 0), ("chosen", 9), ("hints", -1), ("step_size", -1.0), ("variant", "bench"),
        ("objective", "up"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            CAdv(spread, **{name: value})
