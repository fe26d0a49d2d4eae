from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxiqa.ops.jpeg import jpeg, quantization_tables


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 100])
def test_the_tables_are_those_of_libjpeg(quality):
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    written = Image.open(file).quantization
    np.testing.assert_array_equal(quantization_tables(quality).reshape(2, 64), [written[0], written[1]])


def waves(u, v):
    """Return one grey wave of a block, of amplitude 100 (of 255) around the middle."""
    axis = np.cos((2 * np.arange(8) + 1) * np.array([[u], [v]]) * np.pi / 16)
    block = 128 + 100 * np.outer(axis[0], axis[1])
    return jnp.asarray(np.tile(block, (2, 2))[None, ..., None].repeat(3, -1) / 255, jnp.float32)


@pytest.mark.parametrize(("u", "v"), [(0, 1), (3, 2), (7, 7)])
def test_a_wave_is_quantised_to_a_step_of_its_table(u, v):
    norm = np.sqrt((8 if u == 0 else 4) * (8 if v == 0 else 4))
    step = float(quantization_tables(30)[0, u, v])
    kept = np.round(100 * norm / step) * step / norm
    found = 255 * jpeg(waves(u, v), 30) - 128
    np.testing.assert_allclose(found, kept / 100 * (255 * waves(u, v) - 128), atol=1e-3)


@pytest.mark.slow
def test_the_gradient_of_a_wave_is_that_of_the_rounding():
    """Along the wave the gradient is three times the squared distance to the nearest integer."""
    with jax.enable_x64(True):
        wave = jnp.asarray(np.asarray(waves(3, 2), np.float64) - 128 / 255)
        step = float(quantization_tables(30)[0, 3, 2])
        amplitude = jnp.asarray(0.9)
        along = jax.grad(lambda a: (jpeg(a * wave + 128 / 255, 30) * wave).sum())(amplitude)
        x = 0.9 * 100 * 4 / step
        np.testing.assert_allclose(along / (wave**2).sum(), 3 * (x - np.round(x)) ** 2, rtol=1e-4)


@pytest.mark.parametrize("variant", ["paper", "benchmark"])
@pytest.mark.parametrize("size", [(17, 40), (32, 48)])
def test_any_size_is_kept(variant, size):
    images = jax.random.uniform(jax.random.key(0), (2, *size, 3))
    coded = jpeg(images, 100, variant=variant)
    assert coded.shape == images.shape
    smooth = jnp.broadcast_to(jnp.linspace(0.2, 0.8, size[1])[:, None], images.shape)
    np.testing.assert_allclose(jpeg(smooth, 95, variant=variant), smooth, atol=0.02)


@pytest.mark.parametrize(("variant", "slope"), [("paper", 0.0), ("benchmark", 1e-3)])
def test_clipped_values_pass_little_gradient(variant, slope):
    """For grey above white only the mean of a block matters; rounding passes the same gradient as inside."""
    with jax.enable_x64(True):
        white = jnp.ones((1, 17, 17, 3))
        slope_at = jax.grad(lambda level: jpeg(level * white, 50, variant=variant).sum())
        inside, outside = slope_at(0.61), slope_at(0.61 + 512 / 255)  # 8 · 512 is a multiple of the step, 16
        np.testing.assert_allclose(outside, slope * inside, rtol=1e-6)
    assert abs(float(inside)) > 1


def test_small_images_are_refused_where_there_is_nothing_to_reflect():
    assert jpeg(jnp.zeros((1, 1, 3, 3)), 50).shape == (1, 1, 3, 3)
    with pytest.raises(ValueError, match="at least 17 pixels"):
        jpeg(jnp.zeros((1, 16, 40, 3)), 50, variant="benchmark")
    with pytest.raises(ValueError, match="variant='torch' is not allowed"):
        jpeg(jnp.zeros((1, 16, 40, 3)), 50, variant="torch")
