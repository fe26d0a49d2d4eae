"""BRISQUE: the scores of the package image-quality 1.2.7, and everything that a metric promises.

Stored scores were computed by the package itself: unchanged with scikit-image 0.18.3 and libsvm 3.23 on Python 3.8, and
with the changes of `package` with scikit-image 0.26.0. They need its file of weights: install the package
(``pip install --no-deps image-quality==1.2.7``), or put the file into ``$JAXIQA_SHARED/data/weights``.
"""

import importlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.signal
import scipy.special
import tiny
from flax import nnx
from PIL import Image
from quick import every

import jaxiqa
from jaxiqa import attacks, models
from jaxiqa.models.brisque import BRISQUE, BRISQUE_SPEC
from jaxiqa.models.exporting import save_exported
from jaxiqa.pretrained import download

STORED = {  # seed, height, width, white and black areas -> official, skimage0.26
    (0, 96, 128, False): (20.861491299687344, 22.02091465065925),
    (1, 131, 97, False): (24.385850515040232, 26.71082789712122),
    (2, 77, 203, False): (27.244234440474628, 28.771262780674277),
    (3, 64, 65, False): (34.56414478588292, 37.8015884714317),
    (4, 120, 90, True): (32.36866487180916, 32.34347440183214),
}
PROTOCOLS = ("official", "skimage0.26")


def synthetic(seed, height, width, saturated=False):
    """Return 8-bit noise of several scales."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for step in (1, 2, 3, 5, 9, 17, 33):
        blocks = random.random((height // step + 1, width // step + 1, 3)) - 0.5
        image += 12 * step**0.5 * np.kron(blocks, np.ones((step, step, 1)))[:height, :width]
    image = np.clip(np.round(128 + image), 1, 254)
    if saturated:
        image[: height // 3, : width // 3] = 255
        image[-height // 3 :, -width // 3 :] = 0
    return image.astype(np.uint8)


def batch(image):
    return jnp.asarray(image[None], jnp.float32) / 255


@pytest.fixture(scope="module")
def weights():
    """Return the package's file of weights."""
    copy = Path(os.environ.get("JAXIQA_SHARED", "/nowhere"), "data", "weights", "brisque_svm.txt")
    if copy.is_file():
        return copy
    try:
        return download.fetch(BRISQUE_SPEC.weights["image_quality"], "image_quality", model="brisque")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def package(monkeypatch):
    """Return the package's module, and the protocol that it follows; changed if scikit-image is too new for it."""
    names = ("skimage.color", "skimage.transform", "libsvm.svm", "libsvm.svmutil")
    color, transform, svm, svmutil = (
        pytest.importorskip(
            name, reason="the package image-quality, or what it needs, is not installed", exc_type=ImportError
        )
        for name in names
    )
    new = tuple(map(int, importlib.metadata.version("scikit-image").split(".")[:2])) > (0, 18)
    if new:
        grey, rescale = color.rgb2gray, transform.rescale
        monkeypatch.setattr(color, "rgb2gray", lambda x: x if x.ndim == 2 else grey(x))
        monkeypatch.setattr(transform, "rescale", lambda *args, multichannel=None, **rest: rescale(*args, **rest))
    if not hasattr(svmutil, "PRECOMPUTED"):  # since libsvm 3.30
        monkeypatch.setattr(svmutil, "PRECOMPUTED", svm.kernel_names.PRECOMPUTED, raising=False)
        for name in ("gen_svm_nodearray", "libsvm", "c_double"):
            monkeypatch.setattr(svmutil, name, getattr(svm, name), raising=False)
    module = pytest.importorskip("imquality.brisque", reason="the package image-quality is not installed")
    return module, PROTOCOLS[new]


@pytest.fixture(scope="module")
def model():
    """Return a metric whose regression is random."""
    return BRISQUE(vectors=7, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stored_scores_of_the_package(weights, protocol):
    found = jaxiqa.load("brisque", weights=weights, protocol=protocol)
    for case, expected in STORED.items():
        score = found(batch(synthetic(*case)))[0]
        assert 100 - score == pytest.approx(expected[PROTOCOLS.index(protocol)], abs=1e-3)


PHOTOGRAPHS = {
    "kodak/kodim03.png": [(512, 768), (333, 335), (197, 251)],
    "kodak/kodim20.png": [(511, 640)],  # a white sky
    "kodak/kodim17.png": [(768, 512), (90, 255)],
    "clive/42.jpg": [(500, 500), (201, 300)],
    "clive/300.jpg": [(499, 498)],
    "nips2017/0aebe24fc257286e.png": [(299, 299)],
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_scores_of_the_package_on_photographs(shared, weights, package, name):
    module, protocol = package
    found = jaxiqa.load("brisque", weights=weights, protocol=protocol)
    whole = np.asarray(Image.open(shared / "data" / name).convert("RGB"))
    for height, width in PHOTOGRAPHS[name]:
        image = whole[:height, :width]
        difference = 100 - float(found(batch(image))[0]) - module.score(Image.fromarray(image))
        print(f"{name} {height}x{width}: {difference:.1e}")
        assert abs(difference) < 1e-3


def _statistics(grey):
    """Return 18 features of one scale, by SciPy: convolution in two dimensions, gamma functions, a bracketed root."""
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = scipy.signal.convolve2d(grey, window, "same")
    deviation = np.sqrt(np.abs(scipy.signal.convolve2d(grey**2, window, "same") - mean**2))
    m = (grey - mean) / (deviation + 1 / 255)
    gamma = scipy.special.gamma
    features = []
    products = [m[:, :-1] * m[:, 1:], m[:-1] * m[1:], m[:-1, :-1] * m[1:, 1:], m[1:, :-1] * m[:-1, 1:]]
    for x in (m, *products):
        left, right = (np.sqrt(np.mean(x[side] ** 2)) for side in (x < 0, x >= 0))
        g = left / right
        ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        a = scipy.optimize.brentq(lambda a, r=ratio: gamma(2 / a) ** 2 / gamma(1 / a) / gamma(3 / a) - r, 0.1, 20)
        eta = (right - left) * gamma(2 / a) / gamma(1 / a) * np.sqrt(gamma(1 / a) / gamma(3 / a))
        features += [a, (left**2 + right**2) / 2] if x is m else [a, eta, left**2, right**2]
    return features


def _halved(grey, mode):
    sides = [round(side / 2) for side in grey.shape]
    points = [(np.arange(out) + 0.5) * side / out - 0.5 for side, out in zip(grey.shape, sides, strict=True)]
    grid = np.meshgrid(*points, indexing="ij")
    return np.clip(scipy.ndimage.map_coordinates(grey, grid, order=2, mode=mode), grey.min(), grey.max())


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "mode"), [("official", "constant"), ("skimage0.26", "grid-constant")])
@pytest.mark.parametrize("size", every(3, [(41, 64), (50, 39), (63, 27)]))
def test_features_are_those_of_scipy(protocol, mode, size):
    images = np.stack([synthetic(seed, *size) for seed in (10, 11)]) / 255
    grey = images @ [0.2125, 0.7154, 0.0721]
    expected = [_statistics(one) + _statistics(_halved(one, mode)) for one in grey]
    model = BRISQUE(protocol=protocol, vectors=2, rngs=nnx.Rngs(0))
    with jax.enable_x64(True):
        found = model.features(jnp.asarray(images), ("scale1", "scale2"))
    np.testing.assert_allclose(np.concatenate(list(found.values()), 1), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences(model):
    with jax.enable_x64(True):
        x = jnp.asarray(synthetic(12, 25, 30)[None]) / 255.0
        direction = jax.random.normal(jax.random.key(0), x.shape)
        score = jax.jit(lambda x: model(x)[0])
        slope = jnp.sum(jax.jit(jax.grad(score))(x) * direction)
        along = jax.jit(lambda x: jax.jvp(score, (x,), (direction,))[1])(x)
        step = 1e-7
        measured = (score(x + step * direction) - score(x - step * direction)) / (2 * step)
        assert abs(slope) > 0.1
        np.testing.assert_allclose([slope, along], measured, rtol=1e-5)


@pytest.mark.slow
def test_a_batch_equals_its_images_and_its_vmapped_form(model):
    score = models.score_fn(model)
    x = jnp.concatenate([batch(synthetic(seed, 24, 33)) for seed in (0, 1, 2)])
    x = x.at[2, :15].set(0.7)  # a flat area: its signs are no rounding
    together = jax.jit(score)(x)
    assert np.std(together) > 1e-3
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda image: score(image[None])[0]))(x), together, rtol=1e-6)
    np.testing.assert_allclose([score(image[None])[0] for image in x], together, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: score(x).sum()))(x)
    assert np.isfinite(gradient).all()
    alone = jax.jit(jax.grad(lambda x: score(x).sum()))(x[2:])
    np.testing.assert_allclose(gradient[2:], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["raise", "lower"])
def test_attacks_move_the_score(model, objective):
    score, x = models.score_fn(model), batch(synthetic(0, 48, 57))
    before, sign = score(x), {"raise": 1, "lower": -1}[objective]
    for name, options in (("fgsm", {}), ("pgd", {"steps": 4})):
        attack = attacks.make(name, epsilon=1 / 510, objective=objective, **options)
        attacked = attack(score, x, jax.random.key(0))
        assert jnp.abs(attacked - x).max() <= 1 / 510 + 1e-6
        assert sign * (score(attacked) - before) > 0.05


@pytest.mark.slow
def test_pgd_moves_the_published_metric(weights):
    score = models.score_fn(jaxiqa.load("brisque", weights=weights))
    x = batch(synthetic(2, 77, 103))
    before = score(x)
    for objective, sign in (("raise", 1), ("lower", -1)):
        pgd = attacks.make("pgd", epsilon=4 / 255, steps=10, objective=objective)
        moved = sign * (score(pgd(score, x, jax.random.key(0))) - before)
        print(f"{objective}: {moved[0]:.1f}")
        assert moved > 10


@pytest.mark.slow
@pytest.mark.parametrize("value", every(3, [0.3, 0.0, 1.0]))
def test_flat_images_have_a_score_and_a_gradient(model, value):
    score, gradient = jax.jit(jax.value_and_grad(lambda x: model(x)[0]))(jnp.full((1, 21, 30, 3), value))
    assert np.isfinite(score)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_small_images(model):
    with pytest.raises(ValueError, match="images is 7x40; both sides must be at least 8 pixels"):
        model(jnp.zeros((1, 7, 40, 3)))
    assert np.isfinite(model(batch(synthetic(0, 8, 9)))).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", every(2, [jnp.float16, jnp.bfloat16]))
def test_half_precision_is_scored_as_float32(model, dtype):
    x = batch(synthetic(0, 24, 33)).astype(dtype)
    found = model(x)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, model(x.astype(jnp.float32)))
    np.testing.assert_array_equal(models.score_fn(model, compute_dtype="bfloat16")(x), found)


def test_a_metric_without_stages_cannot_be_hardened(model):
    with pytest.raises(TypeError, match="model is a BRISQUE; expected a metric with a backbone of named stages"):
        models.harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(0))
    assert model.insertions == ()


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match=r"protocol='matlab' is not allowed; choose from 'official', 'skimage0\.26'"):
        BRISQUE(protocol="matlab", rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_it_is_exported_for_any_number_of_images(tmp_path):
    score = models.score_fn(tiny.filled(nnx.eval_shape(lambda: BRISQUE(vectors=7, rngs=nnx.Rngs(0)))))
    exported = models.export(score, "b, 24, 33, 3")
    save_exported(exported, tmp_path / "b.jaxexport")
    loaded = models.load_exported(tmp_path / "b.jaxexport")
    for count in (1, 3):
        x = jnp.concatenate([batch(synthetic(seed, 24, 33)) for seed in range(count)])
        np.testing.assert_allclose(loaded(x), jax.jit(score)(x), rtol=1e-6)
