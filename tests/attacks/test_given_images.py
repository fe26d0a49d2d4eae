"""Checks of images: type, layout, range, precision, devices; each error names the remedy."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_metric import KEY, make_images, score
from test_attacks import EPSILON, NAMES, an_attack, is_bounded, slow

from jaxiqa import attacks, models
from jaxiqa.attacks import make
from jaxiqa.attacks.engine.gradients import finish
from jaxiqa.core.images import _SEEN, check_unit_images

RNG = np.random.default_rng(0)
UNIT = RNG.random((2, 12, 10, 3)).astype(np.float32)
WRONG = {
    "0..255": (255 * UNIT, ValueError, r"values in .*divide pixels of 0..255 by 255"),
    "-1..1": (2 * UNIT - 1, ValueError, r"values in .*\(x \+ 1\) / 2"),
    "a little": (UNIT + 0.01, ValueError, r"values in .*expected \[0, 1\]"),
    "NaN": (np.where(UNIT > 0.99, np.nan, UNIT), ValueError, "values in .*nan"),
    "channels first": (UNIT.transpose(0, 3, 1, 2), ValueError, r"transpose by \(0, 2, 3, 1\)"),
    "RGBA": (np.zeros((2, 8, 9, 4), np.float32), ValueError, r"RGBA: leave alpha out"),
    "grey": (np.zeros((2, 8, 9, 1), np.float32), ValueError, "grey: repeat it"),
    "no batch": (UNIT[0], ValueError, r"images\[None\]"),
    "no channels": (UNIT[0, ..., 0], ValueError, "four axes, b h w c"),
    "none": (UNIT[:0], ValueError, "at least one image"),
    "uint8": (np.zeros((1, 8, 9, 3), np.uint8), ValueError, "divide uint8 by 255"),
    "list": ([UNIT[0], UNIT[1]], TypeError, r"images is a list; .*np\.stack"),
    "path": ("a.png", TypeError, r"images is a str; .*read_image"),
    "nothing": (None, TypeError, "images is a NoneType"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_images_of_a_wrong_kind_are_refused_with_a_remedy(kind):
    images, error, message = WRONG[kind]
    with pytest.raises(error, match=message):
        check_unit_images(images)
    if isinstance(images, np.ndarray):
        with pytest.raises(error, match=message):
            check_unit_images(jnp.asarray(images))


def test_rounding_errors_are_accepted_and_an_array_is_checked_once():
    for dtype in ("float32", "float16", "bfloat16"):
        check_unit_images(jnp.asarray([[[[0.0, 0.5, 1.0]]]], dtype) * (1 + float(jnp.finfo(dtype).eps)))
    images = jnp.asarray(UNIT)
    before = len(_SEEN)
    check_unit_images(images)
    assert len(_SEEN) == before + 1
    check_unit_images(images)
    assert len(_SEEN) == before + 1
    del images
    assert len(_SEEN) == before


def test_traced_arrays_are_checked_for_layout_only():
    jax.jit(check_unit_images)(jnp.full((1, 4, 4, 3), 255.0))
    with pytest.raises(ValueError, match="3 channels last"):
        jax.eval_shape(check_unit_images, jnp.zeros((1, 3, 4, 4)))


SMALL = {"backbone": "resnet18", "width": 8}


@pytest.mark.slow
def test_a_metric_and_its_score_function_refuse_the_same_images_as_attacks():
    metric = models.build(**SMALL)
    score_fn = models.score_fn(metric)
    for images, error, message in WRONG.values():
        if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype.kind != "f":
            continue
        for function in (metric, score_fn):
            with pytest.raises(error, match=message):
                function(jnp.asarray(images))
    with pytest.raises(ValueError, match="pixels has values in"):
        metric.network(jnp.full((1, 40, 40, 3), 255.0))
    with pytest.raises(ValueError, match="3 channels last"):
        jax.jit(score_fn)(jnp.zeros((1, 3, 40, 40)))


@pytest.mark.parametrize("name", ["spaq_bl", *map(slow, sorted(set(models.MODELS) - {"linearity", "spaq_bl"}))])
def test_every_published_metric_refuses_pixels_of_0_to_255(name):
    # Weights are not needed: the images are refused first.
    metric = nnx.eval_shape(lambda: models.MODELS[name].build(rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="images has values in"):
        metric(jnp.full((1, 300, 300, 3), 255.0))
    with pytest.raises(ValueError, match="transpose by"):
        metric(jnp.zeros((1, 3, 300, 300)))


@pytest.mark.slow
def test_lists_and_paths_are_refused_without_type_checks():
    """Type checks are off, as for users: in the other tests they come first."""
    program = """
import numpy as np, jax
from jaxiqa import attacks, models
metric = models.build("resnet18", width=8)
for given in ([np.zeros((8, 8, 3))], "a.png", None):
    for function in (metric, models.score_fn(metric), lambda x: attacks.PGD(0.1)(metric, x, jax.random.key(0))):
        try:
            function(given)
        except TypeError as error:
            assert f"images is a {type(given).__name__}; expected a NumPy or JAX array" in str(error), error
        else:
            raise AssertionError(given)

from dataclasses import replace
from jaxiqa.attacks import ATTACKS, Korhonen, MADC, NES, PGD, SSAH, UAP, Square, StAdv
image, key = np.full((1, 8, 8, 3), 0.5), jax.random.key(0)
cases = [(ATTACKS[name](0.1), "epsilon") for name in ("fgsm", "ifgsm", "pgd", "apgd", "nes", "square", "parsimonious")]
cases += [(NES(0.1), "sigma"), (NES(0.1), "momentum"), (UAP(np.zeros((8, 8, 3), np.float32)), "amplitude")]
for attack, option in cases:
    try:
        replace(attack, **{option: None})(lambda x: x.mean((1, 2, 3)), image, key)
    except ValueError as error:
        assert str(error).startswith(f"{option}=None is not a number; give the attack one"), error
    else:
        raise AssertionError((attack, option))
for attack in (PGD(0.1, step_size=None), MADC(), Korhonen(), SSAH(), StAdv(steps=1)):  # None is a default, or filled in
    attack(lambda x: x.mean((1, 2, 3)), image, key)
for attack in (PGD(0.1), Square(0.1), NES(0.1)):
    axes = replace(jax.tree.map(lambda _: None, attack), epsilon=0)  # how JAX's axes of a pytree are written
    attacks_ = replace(attack, epsilon=np.array([0.1, 0.2]))
    assert jax.vmap(lambda attack: attack.epsilon + 1, in_axes=(axes,))(attacks_).shape == (2,)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.slow
def test_the_repr_of_a_score_function_and_of_a_published_metric_is_one_line():
    assert repr(models.score_fn(models.build(**SMALL))).startswith("ScoreModel(Linearity, ")
    for shown in (repr(models.score_fn(models.build(**SMALL))), *map(repr, models.MODELS.values())):
        assert "\n" not in shown
        assert len(shown) < 120


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [slow("float16"), "bfloat16"])
@pytest.mark.parametrize("name", [name if name in ("fgsm", "square", "uap") else slow(name) for name in NAMES])
def test_half_precision_images_stay_in_the_ball_and_keep_their_type(name, dtype):
    images = jnp.asarray(make_images(), dtype)
    given = lambda x: score(x.astype(jnp.float32))  # noqa: E731
    attacked = an_attack(name, make_images())(given, images, KEY)
    assert attacked.dtype == images.dtype
    change = np.abs(np.asarray(attacked, np.float64) - np.asarray(images, np.float64))
    assert change.max() > 0
    if is_bounded(name):
        assert change.max() <= EPSILON + 1e-6


@pytest.mark.parametrize("dtype", [slow("float16"), "bfloat16"])
@pytest.mark.parametrize("name", ["pgd", slow("apgd"), slow("square")])
def test_half_precision_images_stay_in_the_l2_ball(name, dtype):
    images = jnp.asarray(make_images(), dtype)
    options = {"queries": 20} if name == "square" else {"steps": 4}
    attacked = make(name, epsilon=0.5, norm="l2", **options)(lambda x: score(x.astype(jnp.float32)), images, KEY)
    change = (np.asarray(attacked, np.float64) - np.asarray(images, np.float64)).reshape(len(images), -1)
    assert np.linalg.norm(change, axis=1).max() <= 0.5 + 1e-6


def test_rounding_goes_towards_the_clean_image():
    clean = jnp.asarray(UNIT, jnp.bfloat16)
    attacked = jnp.clip(clean.astype(jnp.float32) + 0.03 * jnp.sign(jnp.asarray(RNG.standard_normal(UNIT.shape))), 0, 1)
    rounded = finish(attacked, clean)
    assert rounded.dtype == jnp.bfloat16
    distance = lambda x: np.abs(np.asarray(x, np.float64) - np.asarray(clean, np.float64))  # noqa: E731
    assert (distance(rounded) <= distance(attacked)).all()
    assert (np.abs(distance(rounded) - distance(attacked)) <= 2.0**-8).all()  # at most one unit in the last place


X64 = """
import sys; sys.path[:0] = ["tests/attacks", "tests/helpers"]
import jax; jax.config.update("jax_enable_x64", True)
import numpy as np, jax.numpy as jnp
from test_attacks import NAMES, an_attack, is_bounded, EPSILON
from small_metric import score
for dtype in ("float32", "float64"):
    images = jnp.asarray(np.random.default_rng(0).random((2, 9, 14, 3)), dtype)
    for name in NAMES:
        attacked = an_attack(name, images)(score, images, jax.random.key(0))
        assert attacked.dtype == images.dtype, name
        if is_bounded(name):
            change = np.abs(np.asarray(attacked - images)).max()
            assert change <= EPSILON + (1e-6 if dtype == "float32" else 1e-12), name
"""


@pytest.mark.slow
def test_all_attacks_run_with_x64():
    subprocess.run([sys.executable, "-c", X64], check=True, timeout=600)


@pytest.mark.parametrize("name", ["fgsm", *map(slow, sorted({*NAMES} - {"fgsm"}))])
def test_a_score_function_on_one_device_accepts_images_on_several(name):
    devices = jax.local_devices()
    assert len(devices) > 1
    weight = jax.device_put(RNG.standard_normal((9, 14, 3)).astype(np.float32), devices[0])
    committed = jax.tree_util.Partial(lambda w, x: jnp.sin(3 * x + w).mean((1, 2, 3)), weight)
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    images = RNG.random((len(devices) * 2, 9, 14, 3)).astype(np.float32)
    divided = jax.device_put(images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    attack = an_attack(name, jnp.asarray(images))
    expected = attack(committed, jnp.asarray(images), KEY)
    for there in (divided, jax.device_put(images, devices[1])):
        np.testing.assert_allclose(attack(committed, there, KEY), expected, atol=1e-5)
    if name != "pgd":
        return
    assert attacks.sweep(attacks.PGD(0.1, steps=2), committed, divided, KEY, [0.1, 0.2]).shape[0] == 2
    score_fn = jax.device_put(models.score_fn(models.build(**SMALL)), devices[0])
    assert np.isfinite(score_fn(divided)).all()
