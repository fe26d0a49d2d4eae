"""The contract of every certifier, and certificates against known truths."""

import dataclasses

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxiqa.core.keys import image_keys
from jaxiqa.core.types import Certificate, Certifier
from jaxiqa.defenses.smoothing import CERTIFIERS, DRS, MS, RS, make, noise
from jaxiqa.defenses.smoothing.bounds import median_ranks
from jaxiqa.defenses.smoothing.noisy_copies import Denoised, Noisy
from jaxiqa.defenses.smoothing.sampling import sampler

KEY = jax.random.key(5)


gaussian = jax.jit(noise.gaussian, static_argnames="shape")


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def score(images):
    """Score images of any size smoothly; every pixel counts."""
    return jnp.tanh(4 * (images - 0.45)).mean((1, 2)) @ jnp.array([1.0, -0.5, 0.7])


def blur(images):
    return (images + jnp.roll(images, 1, 1)) / 2


def network(x, t):
    """Predict a third of the image as noise, and more at later steps."""
    return jnp.concatenate([x * (0.3 + t[:, None, None, None] / 1000), jnp.tanh(x)], -1)


RANGE = (-0.5, 0.5)


WIDE = {"score_range": (-1.0, 1.0), "classes": 4}


SMALL = {
    "rs": WIDE,
    "drs": WIDE | {"denoise": blur},
    "ddrs": WIDE | {"network": network, "size": 8},
    "densepure": WIDE | {"network": network, "size": 8, "votes": 3},
    "ms": {},
    "dms": {"denoise": blur},
}


"""Options that make every certifier of the registry quick."""


NAMES = list(CERTIFIERS)


def a_certifier(name, **options):
    few = {"n": 60, "chunk": 16} | ({} if name in ("ms", "dms") else {"n0": 20})
    return make(name, **SMALL[name] | few | options)


def make_images(shape=(3, 9, 14, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def arrays(certificate):
    found = {field.name: getattr(certificate, field.name) for field in dataclasses.fields(certificate)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray) and name != "edges"}


def agree(one, other, atol=0.0):
    one, other = arrays(one), arrays(other)
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name):
    images, certify = make_images(), a_certifier(name)
    assert isinstance(certify, Certifier)
    calls = []
    found = certify(score, images, KEY, lambda done, total: calls.append((done, total)))
    assert isinstance(found, Certificate)
    assert all(array.shape == (3,) for array in arrays(found).values())
    assert (found.sigma, found.alpha, found.noise) == (0.12, 0.001, "gaussian")
    assert found.n.tolist() == [60, 60, 60]
    samples = 60 * 3 if name in ("ms", "dms") else 80 * 3
    assert calls[-1] == (samples, samples)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    if name in ("ms", "dms"):
        assert found.label is None
        assert (found.lower < found.score).all()
        assert (found.score < found.upper).all()
        assert (found.radius == 0.05).all()
        np.testing.assert_array_equal(found.width, found.upper - found.lower)
        np.testing.assert_array_equal(found.delta, np.maximum(found.upper - found.score, found.score - found.lower))
        assert not found.abstained.any()
    else:
        assert found.score is found.delta is found.width is None
        assert len(found.edges) == 3
        np.testing.assert_array_equal(found.abstained, found.label == -1)
        assert (found.radius[found.abstained] == 0).all()
        assert (found.radius <= 0.12 * special.ndtri(0.001 ** (1 / 60))).all()
        assert not found.abstained.all()
    agree(found, certify(score, images, KEY))
    other = certify(score, images, jax.random.key(6))
    assert any((arrays(other)[key] != value).any() for key, value in arrays(found).items())
    # Scores in other batches may differ by rounding; a radius jumps if one score changes its class.
    atol = 1e-6
    agree(found, a_certifier(name, chunk=7)(score, images, KEY), atol)
    keys = image_keys(KEY, 3)
    for i in range(3):
        single = certify(score, images[i : i + 1], keys[i : i + 1])
        for key, value in arrays(single).items():
            np.testing.assert_allclose(value[0], arrays(found)[key][i], rtol=0, atol=atol)


@pytest.mark.parametrize("name", [name if name in ("rs", "ms") else slow(name) for name in NAMES])
@pytest.mark.parametrize("size", [(1, 1), slow((7, 4))])
def test_any_size(name, size):
    found = a_certifier(name)(score, make_images((1, *size, 3)), KEY)
    assert all(np.isfinite(value).all() for value in arrays(found).values())
    assert found.size == ((8, 8) if name in ("ddrs", "densepure") else size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((1, 4, 4, 3), 255.0, np.float32), "expected \\[0, 1\\]"),
        (np.full((1, 4, 4, 3), np.nan, np.float32), "nan"),
        (np.zeros((1, 4, 4, 1), np.float32), "3 channels"),
        (np.zeros((0, 4, 4, 3), np.float32), "at least one"),
        (np.zeros((1, 4, 4, 3), np.uint8), "images"),
        (np.zeros((4, 4, 3), np.float32), "images"),
    ],
)
def test_bad_images_are_refused(name, images, message):
    with pytest.raises(Exception, match=message):  # ValueError, or the type checker's error if it comes first
        a_certifier(name)(score, jnp.asarray(images), KEY)


@pytest.mark.parametrize("name", [name if name in ("rs", "ms") else slow(name) for name in NAMES])
def test_scores_that_are_not_finite_or_not_one_per_image_are_refused(name):
    images = jnp.array([0.2, 0.8, 0.2])[:, None, None, None] * jnp.ones((3, 9, 14, 3))
    bright = lambda x: jnp.where(x.mean((1, 2, 3)) < 0.4, jnp.nan, 1.0)  # noqa: E731
    blind = {"network": lambda x, t: jnp.zeros((*x.shape[:3], 6))} if "network" in SMALL[name] else {}
    with pytest.raises(ValueError, match=r"non-finite scores for noisy copies of images 0, 2$"):
        a_certifier(name, **blind)(bright, images, KEY)
    with pytest.raises(ValueError, match="one score per image"):
        a_certifier(name)(lambda x: x.mean(), make_images(), KEY)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_samples_are_refused_before_sampling(name):
    least = 17 if name in ("ms", "dms") else 10  # 0.6615 ** 17 < 0.001, 0.5 ** 10 < 0.001
    with pytest.raises(ValueError, match=f"n={least - 1} is too small.*fewer than n={least}$"):
        a_certifier(name, n=least - 1)
    a_certifier(name, n=least)
    with pytest.raises(ValueError, match="can be certified with any n" if name in ("ms", "dms") else "no radius of 2"):
        a_certifier(name, **({"epsilon": 5.0} if name in ("ms", "dms") else {"target": 2.0}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sr", {}, "'rs'"),
        ("rs", {"eps": 0.1}, "'sigma'"),
        ("rs", {}, "needs score_range"),
        ("drs", {"score_range": RANGE}, "needs denoise"),
        ("ms", {"sigma": 0.0}, "sigma"),
        ("ms", {"epsilon": -0.1}, "epsilon"),
        ("ms", {"alpha": 1.0}, "alpha"),
        ("ms", {"n": 0}, "n=0"),
        ("ms", {"variant": "repo"}, "variant"),
        ("ms", {"target": 0.0}, "target"),
        ("rs", {"score_range": (1.0, 1.0)}, "score_range"),
        ("rs", {"score_range": RANGE, "n0": 0}, "n0"),
        ("rs", {"score_range": RANGE, "classes": 2}, "classes"),
        ("ddrs", {"score_range": RANGE, "network": network, "sigma": 100.0}, "sigma"),
        ("ddrs", {"score_range": RANGE, "network": network, "size": 0}, "size"),
        ("densepure", {"score_range": RANGE, "network": network, "steps": 90}, "steps"),
        ("densepure", {"score_range": RANGE, "network": network, "votes": 0}, "votes"),
    ],
)
def test_errors_name_the_bad_option(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_a_bad_chunk_a_bad_key_and_a_trace_are_refused():
    with pytest.raises(ValueError, match="chunk"):
        a_certifier("ms", chunk=0)(score, make_images(), KEY)
    with pytest.raises(ValueError, match="one key per image"):
        a_certifier("ms")(score, make_images(), jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda x: a_certifier("ms")(score, x, KEY).score)(make_images())


def test_equal_samples():
    """A constant score gives equal votes and equal order statistics."""
    images = make_images()
    constant = lambda x: jnp.full(len(x), 0.25)  # noqa: E731
    found = a_certifier("ms")(constant, images, KEY)
    np.testing.assert_array_equal([found.lower, found.score, found.upper], 0.25)
    np.testing.assert_array_equal(found.width, 0)
    found = a_certifier("rs")(constant, images, KEY)
    np.testing.assert_allclose(found.radius, 0.12 * special.ndtri(0.001 ** (1 / 60)), rtol=1e-9)
    assert found.label.tolist() == [2, 2, 2]


def test_one_sample():
    found = RS(score_range=RANGE, n0=1, n=1, alpha=0.6)(score, make_images(), KEY)
    assert set(np.round(found.radius, 9)) <= {0.0, round(0.12 * special.ndtri(0.6), 9)}
    with pytest.raises(ValueError, match="n=3"):  # one sample is on one side of a quantile, for any alpha
        MS(epsilon=0.001, n=1, alpha=0.6)
    found = MS(epsilon=0.001, n=3, alpha=0.6)(score, make_images(), KEY)
    assert (found.lower < found.upper).all()


@pytest.mark.slow
def test_denoisers_get_the_input_of_their_variant():
    images, words = jnp.ones((4, 3, 3, 3)), jnp.zeros((4, 2), jnp.uint32)
    above = lambda x: jnp.where(x > 1, 0.2, 0.7)  # noqa: E731
    seen = {v: Denoised(0.1, above, v)(images, words, jnp.arange(4)) for v in ("paper", "benchmark")}
    assert 0.3 < float((seen["paper"] == 0.2).mean()) < 0.7
    assert (seen["benchmark"] == 0.7).all()
    with pytest.raises(ValueError, match="expected the same shape"):
        DRS(lambda x: x[:, 1:], score_range=RANGE)(score, make_images(), KEY)


@pytest.mark.parametrize("variant", ["paper", "benchmark"])
@pytest.mark.parametrize(("name", "plain"), [("drs", RS), ("dms", MS)])
def test_a_denoised_certifier_equals_the_plain_one_with_a_denoiser(name, plain, variant):
    certify = a_certifier(name, variant=variant)
    assert isinstance(certify, plain)
    same = plain(**{field.name: getattr(certify, field.name) for field in dataclasses.fields(certify)})
    agree(certify(score, make_images(), KEY), same(score, make_images(), KEY))
    with pytest.raises(TypeError, match="denoise"):
        type(certify)(**{name: value for name, value in SMALL[name].items() if name != "denoise"})
    with pytest.raises(Exception, match="denoise"):  # ValueError, or the type checker's error if it comes first
        a_certifier(name, denoise=None)


def test_without_a_denoiser_both_variants_are_equal():
    images = make_images()
    agree(a_certifier("rs")(score, images, KEY), a_certifier("rs", variant="benchmark")(score, images, KEY))


def test_the_benchmark_variant_of_the_median_takes_the_lower_ranks():
    images = make_images()
    drawn = np.sort(sampler(Noisy(0.12), score, images, KEY, 60, 16).scores(np.arange(3), 0, 60)[..., 0], 1)
    paper, other = a_certifier("ms")(score, images, KEY), a_certifier("ms", variant="benchmark")(score, images, KEY)
    lower, upper = median_ranks(60, 0.05, 0.12, 0.001)
    np.testing.assert_array_equal(paper.lower, drawn[:, lower - 1])
    np.testing.assert_array_equal(paper.upper, drawn[:, upper - 1])
    np.testing.assert_allclose(paper.score, np.median(drawn, 1), rtol=1e-7)
    np.testing.assert_array_equal(other.lower, drawn[:, lower - 2])
    np.testing.assert_array_equal(other.upper, drawn[:, upper - 2])
    np.testing.assert_array_equal(other.score, drawn[:, 29])
