"""Classical purifiers against reference outputs, SciPy, Pillow and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxiqa.defenses import bpda
from jaxiqa.defenses.purify import JPEG, Crop, DiffJPEG, RandomNoise, Rotate, make
from jaxiqa.defenses.purify.geometry import cropped
from jaxiqa.ops.geometry import rotate
from jaxiqa.ops.ssim import psnr

KEY = jax.random.key(3)
EXACT = 1e-7
"""Tolerance for numbers stored as float32."""


@pytest.fixture(scope="module")
def oracle(shared):
    """Outputs of the benchmark's purifiers on two crops of Kodak images."""
    return dict(np.load(shared / "oracles/public/04_purifiers.npz"))


def given(oracle, image):
    return jnp.asarray(oracle[image][None] / np.float32(255))


CASES = [
    ("jpeg_q10", "jpeg", {"quality": 10}, EXACT),
    ("jpeg_q50", "jpeg", {"quality": 50, "variant": "benchmark"}, EXACT),
    ("color_quantization_npp2", "color_quantization", {"levels": 2}, EXACT),
    ("color_quantization_npp16", "color_quantization", {"levels": 16}, EXACT),
    ("resize_0.5_antialias", "resize", {"scale": 0.5, "keep_size": False}, 5e-6),
    ("resize_0.5_noantialias", "resize", {"scale": 0.5, "variant": "benchmark"}, 5e-6),
    ("resize_0.5_antialias_and_back", "resize", {"scale": 0.5}, 5e-6),
    ("resize_0.9_antialias", "resize", {"scale": 0.9, "keep_size": False}, 5e-6),
    ("resize_0.9_noantialias", "resize", {"scale": 0.9, "variant": "benchmark"}, 5e-6),
    ("resize_0.9_antialias_and_back", "resize", {"scale": 0.9}, 5e-6),
    ("upscale_0.25_noantialias_384x512_sampled", "upscale", {"scale": 0.25, "variant": "benchmark"}, 5e-6),
    ("upscale_0.75_noantialias_384x512_sampled", "upscale", {"scale": 0.75, "variant": "benchmark"}, 5e-6),
    ("flip", "flip", {}, EXACT),
    ("gaussian_blur_k3", "gaussian_blur", {"kernel_size": 3}, 1e-6),
    ("gaussian_blur_k7", "gaussian_blur", {"kernel_size": 7}, 1e-6),
    ("median_blur_k3", "median_blur", {"kernel_size": 3}, EXACT),
    ("median_blur_k5", "median_blur", {"kernel_size": 5}, EXACT),
    ("unsharp_k3", "unsharp", {"kernel_size": 3}, 1e-6),
    ("unsharp_k9", "unsharp", {"kernel_size": 9}, 1e-6),
    ("diffjpeg_q30", "diffjpeg", {"quality": 30, "variant": "benchmark"}, 1e-5),
    ("diffjpeg_q90", "diffjpeg", {"quality": 90, "variant": "benchmark"}, 1e-5),
]


@pytest.mark.parametrize("image", ["img0", "img1"])
@pytest.mark.parametrize(("name", "purifier", "options", "tolerance"), CASES, ids=[case[0] for case in CASES])
def test_outputs_equal_those_of_the_benchmark(oracle, image, name, purifier, options, tolerance):
    purified = make(purifier, **options)(given(oracle, image))[0]
    if name.endswith("sampled"):
        purified = purified[oracle["upscale_rows"]][:, oracle["upscale_cols"]]
    np.testing.assert_allclose(purified, oracle[f"{image}__{name}"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("image", ["img0", "img1"])
@pytest.mark.parametrize("quality", [30, 90])
def test_diffjpeg_has_the_benchmarks_gradient(oracle, image, quality):
    x = given(oracle, image)
    _, h, w, _ = x.shape
    weights = np.random.RandomState(77 + quality).standard_normal((1, 3, h, w)).astype(np.float32)
    weights = jnp.asarray(weights.transpose(0, 2, 3, 1))
    purify = DiffJPEG(quality, variant="benchmark")
    found = jax.grad(lambda x: (purify(x) * weights).sum())(x)[0]
    expected = oracle[f"{image}__diffjpeg_q{quality}__grad"]
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("image", ["img0", "img1"])
@pytest.mark.parametrize("angle", [12.5, -41.0])
def test_rotation_equals_the_benchmarks(oracle, image, angle):
    np.testing.assert_array_equal(rotate(given(oracle, image), angle)[0], oracle[f"{image}__rotate_{angle}"])


def test_rotation_draws_its_angle_evenly_and_fills_with_zero():
    images = jnp.ones((1, 40, 60, 3))
    keys = jax.random.split(KEY, 300)
    black = 1 - jax.vmap(lambda key: Rotate(30.0)(images, key))(keys).mean((1, 2, 3, 4))
    angles = jnp.linspace(-30, 30, 301)
    exact = 1 - jax.vmap(lambda angle: rotate(images, angle))(angles).mean((1, 2, 3, 4))
    np.testing.assert_allclose(np.quantile(black, [0.25, 0.5, 0.75]), np.quantile(exact, [0.25, 0.5, 0.75]), atol=0.02)


@pytest.mark.slow
def test_a_crop_is_part_of_the_image_and_reaches_every_position():
    images = jnp.arange(2 * 6 * 7 * 3.0).reshape(2, 6, 7, 3) / 252
    squares = jax.vmap(lambda key: cropped(images, 5, key))(jax.random.split(KEY, 200))
    corners = {(i, j): images[:, i : i + 5, j : j + 5] for i in range(2) for j in range(3)}
    found = [[place for place, part in corners.items() if (part == square).all()] for square in squares]
    assert {place for places in found for place in places} == set(corners)
    assert all(len(places) == 1 for places in found)
    same = Crop(5, keep_size=False)(images, KEY)
    np.testing.assert_array_equal(same, cropped(images, 5, KEY))
    with pytest.raises(ValueError, match="at least 8 pixels"):
        Crop(8)(images, KEY)


def test_noise_has_the_given_sigma_and_is_one_draw_for_all_images():
    images = jnp.full((2, 64, 80, 3), 0.5)
    noise = RandomNoise(0.05)(images, KEY) - images
    assert abs(float(noise.std()) - 0.05) < 0.05 * 4 / np.sqrt(2 * noise[0].size)
    np.testing.assert_array_equal(noise[0], noise[1])
    assert (RandomNoise(0.05)(images, jax.random.key(4)) != images + noise).any()


def test_the_codec_runs_inside_programs_and_under_vmap():
    images = jax.random.uniform(KEY, (3, 17, 24, 3))
    qualities = jnp.array([10.0, 60.0])
    eager = jnp.stack([JPEG(int(quality))(images) for quality in qualities])
    np.testing.assert_array_equal(jax.jit(lambda x: JPEG(60)(x))(images), eager[1])
    np.testing.assert_array_equal(jax.vmap(lambda quality: JPEG(quality)(images))(qualities), eager)
    np.testing.assert_array_equal(jax.vmap(JPEG(60))(images[:, None])[:, 0], eager[1])
    both = jax.jit(jax.vmap(lambda quality, x: JPEG(quality)(x[None])[0]))(qualities, images[:2])
    np.testing.assert_array_equal(both, jnp.stack([eager[0, 0], eager[1, 1]]))


def test_the_codec_rounds_and_the_benchmark_variant_truncates():
    images = jnp.full((1, 16, 16, 3), 127.6 / 255)
    np.testing.assert_allclose(255 * JPEG(100)(images), 128, atol=1e-4)
    np.testing.assert_allclose(255 * JPEG(100, variant="benchmark")(images), 127, atol=1e-4)


@pytest.mark.slow
def test_the_codec_has_no_gradient_and_its_surrogate_has_one():
    images = jax.random.uniform(KEY, (1, 16, 24, 3))
    purify = JPEG(60)
    with pytest.raises(ValueError, match=r"use defenses\.bpda"):
        jax.grad(lambda x: purify(x).sum())(images)
    found = jax.grad(lambda x: (bpda(purify, purify.surrogate)(x, KEY) ** 2).sum())(images)
    _, pull = jax.vjp(DiffJPEG(60), images)
    np.testing.assert_allclose(found, pull(2 * purify(images))[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "qualities", [(1, 2, 5, 10, 50, 60, 90, 100), pytest.param(range(1, 101), marks=pytest.mark.slow)]
)
def test_the_two_codecs_agree_within_the_stated_tolerance(shared, qualities):
    """On photographs, two of which were JPEG files."""
    names = ["kodak/kodim01.png", "kodak/kodim05.png", "clive/1003.jpg", "clive/1006.jpg"]
    crops = [np.asarray(Image.open(shared / "data" / name).convert("RGB"))[:384, :500] for name in names]
    images = jnp.asarray(np.stack(crops), jnp.float32) / 255
    stated = {1: 33, 5: 36, 60: 42, 90: 44, 100: 49}
    for quality in qualities:
        least = max(db for start, db in stated.items() if start <= quality)
        assert float(psnr(DiffJPEG(quality)(images), JPEG(quality)(images)).min()) >= least


def test_an_attack_through_the_median_uses_its_surrogate():
    images = jax.random.uniform(KEY, (1, 8, 9, 3))
    purify = make("median_blur", kernel_size=3)
    adaptive = bpda(purify, purify.surrogate)
    np.testing.assert_array_equal(adaptive(images, KEY), purify(images))
    found = jax.grad(lambda x: adaptive(x, KEY).sum())(images)
    np.testing.assert_allclose(found, jax.grad(lambda x: make("gaussian_blur")(x).sum())(images), atol=1e-6)
