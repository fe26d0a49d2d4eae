import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.cubic import resize_cubic


def by_formula(x: np.ndarray, size: int) -> np.ndarray:
    """Resize a row pixel by pixel with OpenCV's four-tap weights for a = -0.75."""
    a, result = -0.75, []
    for i in range(size):
        p = (i + 0.5) * len(x) / size - 0.5
        first = int(np.floor(p))
        t = p - first
        taps = [
            ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
            ((a + 2) * t - (a + 3)) * t * t + 1,
            ((a + 2) * (1 - t) - (a + 3)) * (1 - t) ** 2 + 1,
        ]
        taps.append(1 - sum(taps))
        result.append(sum(w * x[min(max(first - 1 + j, 0), len(x) - 1)] for j, w in enumerate(taps)))
    return np.array(result)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(7, 5), (20, 31), (1, 13), (40, 4)])
def test_agrees_with_the_formula(size):
    images = np.asarray(jax.random.uniform(jax.random.key(0), (2, 12, 17, 3)), np.float64)
    expected = np.apply_along_axis(by_formula, 2, np.apply_along_axis(by_formula, 1, images, size[0]), size[1])
    resized = resize_cubic(jnp.asarray(images, jnp.float32), size)
    assert resized.shape == (2, *size, 3)
    np.testing.assert_allclose(resized, np.clip(expected, 0, 1), atol=2e-6)


def test_the_same_size_changes_nothing():
    images = jax.random.uniform(jax.random.key(0), (1, 6, 9, 3))
    np.testing.assert_allclose(resize_cubic(images, (6, 9)), images, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_black_and_white_keep_their_gradient(value):
    gradient = jax.grad(lambda x: resize_cubic(x, (5, 6)).sum())(jnp.full((1, 13, 11, 1), value))
    np.testing.assert_allclose(gradient.sum(), 30, rtol=1e-5)


def test_errors_name_the_bad_argument():
    with pytest.raises(ValueError, match="size=0 is outside"):
        resize_cubic(jnp.zeros((1, 4, 4, 3)), (0, 4))
