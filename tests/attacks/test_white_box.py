"""MADC, Korhonen, Zhang, SSAH and stAdv: their contract, the benchmark's numbers, properties of single attacks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks.apgd import APGD
from jaxiqa.attacks.korhonen import Korhonen, signed_activity, spatial_activity
from jaxiqa.attacks.madc import MADC, project_out
from jaxiqa.attacks.ssah import SSAH
from jaxiqa.attacks.stadv import StAdv, _lbfgs, _no_past
from jaxiqa.attacks.zhang import Zhang
from jaxiqa.core.keys import image_keys
from jaxiqa.ops.edges import dilate, sobel
from jaxiqa.ops.wavelet import haar_low

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py

KEY = jax.random.key(3)
MIX = np.random.default_rng(5).normal(size=(3, 4)) / 2


def score(images):
    """Score every pixel and its neighbours smoothly."""
    x = images + 0.5 * jnp.roll(images, 1, 1) - jnp.roll(images, 1, 2)
    return jnp.tanh(x @ MIX).mean((1, 2)) @ jnp.array([1.0, -2.0, 0.5, 1.5])


def squared(images, clean):
    return jnp.mean((images - clean) ** 2, (1, 2, 3))


def make_images(shape=(2, 9, 14, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def make(name, variant, objective="raise", steps=3):
    options = {"variant": variant, "objective": objective, "steps": steps}
    return {
        "madc": lambda: MADC(**options),
        "korhonen": lambda: Korhonen(score_scale=1.0, **options),
        "zhang": lambda: Zhang(squared, score_scale=1.0, **options),
        "ssah": lambda: SSAH(score_scale=1.0, **options),
        "stadv": lambda: StAdv(score_scale=1.0, **options),
        "apgd": lambda: APGD(4 / 255, steps=steps, objective=objective),
    }[name]()


VARIANTS = [
    (name, variant) for name in ("madc", "korhonen", "zhang", "ssah", "stadv") for variant in ("paper", "benchmark")
]
ALL = [*VARIANTS, ("apgd", "paper")]


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_attack_passes_the_contract_in_both_variants(name, variant):
    images = make_images()
    attack = make(name, variant)
    assert hasattr(attack, attack.strength)
    attacked = attack(score, images, KEY)
    assert attacked.dtype == images.dtype
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    np.testing.assert_array_equal(attacked, attack(score, images, KEY))
    assert (score(attacked) > score(images) + 1e-4).all()
    np.testing.assert_allclose(jax.jit(lambda attack, x: attack(score, x, KEY))(attack, images), attacked, atol=1e-5)
    alone = attack(score, images[1:], image_keys(KEY, 2)[1:])
    np.testing.assert_allclose(alone[0], attacked[1], atol=1e-5)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_score_can_be_lowered_too(name, variant):
    images = make_images()
    assert (score(make(name, variant, "lower")(score, images, KEY)) < score(images) - 1e-4).all()


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_score_that_is_not_finite_is_reported(name, variant):
    def broken(images):
        return jnp.where(jnp.arange(len(images)) == 1, jnp.nan, 1.0) * images.mean((1, 2, 3))

    with pytest.raises(ValueError, match="images 1 of 2"):
        make(name, variant)(broken, make_images(), KEY)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_images_of_few_pixels_are_attacked_or_refused(name, variant):
    smallest = {"korhonen": 3, "stadv": 2}.get(name, 1)
    attack = make(name, variant, steps=1)
    flat = lambda images: images.mean((1, 2, 3))  # noqa: E731
    assert np.isfinite(attack(flat, make_images((1, smallest, smallest + 1, 3)), KEY)).all()
    if smallest > 1:
        with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
            attack(flat, make_images((1, smallest - 1, 5, 3)), KEY)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_variant_has_its_own_defaults(name, variant):
    steps = {"madc": (10, 8), "korhonen": (50, 10), "zhang": (200, 10), "ssah": (150, 10), "stadv": (20, 3)}
    assert make(name, variant, steps=None).steps == steps[name][variant == "benchmark"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "papr"}, "variant='papr'.*'paper'"),
        ({"steps": 0}, "steps"),
        ({"step_size": -1.0}, "step_size"),
        ({"score_scale": 0.0}, "score_scale"),
        ({"objective": "up"}, "objective"),
    ],
)
def test_errors_name_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SSAH(**options)


# The benchmark's own numbers


class Toy:
    """The analytic metric on which the benchmark's code was run."""

    def __init__(self, shared):
        folder = shared / "oracles" / "public"
        self.arrays = np.load(folder / "10_projections.npz")
        self.runs = json.loads((folder / "10_projections.json").read_text())["expected"]["toy"]["runs"]
        self.image = jnp.asarray(self.arrays["toy_image"] / np.float32(255))[None]
        self.abc = [jnp.moveaxis(jnp.asarray(self.arrays[f"toy_{name}"]), 1, -1) for name in "abc"]

    def __call__(self, images):
        a, b, c = self.abc
        return 50 + 40 * jnp.mean(a * jnp.sin(b * images + c), (1, 2, 3))


@pytest.mark.parametrize(
    ("run", "attack", "tolerance"),
    [
        ("madc", MADC(step_size=0.00098, variant="benchmark"), 1e-5),
        ("madc_projecting", MADC(step_size=0.023, variant="benchmark"), 1e-5),
        ("ssah", SSAH(step_size=0.00155, score_scale=60.0, variant="benchmark"), 1e-5),
        ("korhonen", Korhonen(step_size=0.00156, score_scale=60.0, variant="benchmark"), 1e-5),
        ("stadv", StAdv(step_size=0.7, score_scale=60.0, variant="benchmark"), 1e-4),
        ("stadv_lr25", StAdv(score_scale=60.0, variant="benchmark"), 1e-4),
    ],
)
def test_the_benchmark_variant_equals_the_benchmark(shared, run, attack, tolerance):
    toy = Toy(shared)
    attacked = attack(toy, toy.image, KEY)
    np.testing.assert_allclose(attacked[0], np.moveaxis(toy.arrays[f"toy_{run}"], 0, -1), atol=tolerance)
    assert float(toy(attacked)[0]) == pytest.approx(toy.runs[run]["score"], abs=1e-3)


def test_the_signed_activity_equals_the_benchmark(shared):
    arrays = np.load(shared / "oracles" / "public" / "10_projections.npz")
    image = jnp.asarray(arrays["korhonen_image"] / np.float32(255))
    np.testing.assert_allclose(signed_activity(image), arrays["korhonen_map"], atol=1e-5)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_the_projection_of_madc_equals_the_benchmark(shared, case):
    arrays = np.load(shared / "oracles" / "public" / "10_projections.npz")
    g1, g2, projected = (arrays[f"madc_vec{case}_{part}"] for part in ("g1", "g2", "pg"))
    found = project_out(jnp.asarray(g2, jnp.float32), jnp.asarray(g1, jnp.float32))
    np.testing.assert_allclose(found, projected, atol=1e-6 * max(1, abs(g2).max()))


def adam_in_numpy(gradient, x, step_size, steps):
    first, second = 0.0, 0.0
    for k in range(1, steps + 1):
        g = gradient(x)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        x = np.clip(x - step_size * first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.999**k)) + 1e-8), 0, 1)
    return x


def test_the_benchmark_variant_of_zhang_is_adam_on_distance_minus_score():
    clean = np.float64(make_images((1, 5, 7, 3)).at[..., 0].set(0.0))
    weights = np.random.default_rng(2).normal(size=clean.shape)
    attack = Zhang(squared, step_size=0.02, score_scale=4.0, distance_weight=3.0, variant="benchmark")
    attacked = attack(lambda x: (x * weights.astype(np.float32)).mean((1, 2, 3)), jnp.asarray(clean, jnp.float32), KEY)
    expected = adam_in_numpy(lambda x: (3.0 * 2 * (x - clean) - weights / 4) / clean.size, clean, 0.02, 10)
    np.testing.assert_allclose(attacked, expected, atol=1e-5)


def test_lbfgs_equals_pytorchs_with_one_iteration_per_call():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(6)
    bowl, wave = random.uniform(0.1, 2, (3, 4, 2)), random.normal(size=(3, 4, 2))
    x = torch.zeros(3, 4, 2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([x], lr=0.6, max_iter=1)
    flow = jnp.zeros((3, 4, 2))
    past = jax.tree.map(lambda leaf: leaf[0], _no_past(flow[None], 8))
    curvatures = []
    for _ in range(8):

        def loss():
            optimiser.zero_grad()
            value = (torch.tensor(bowl) * x**2).sum() + 2 * torch.sin(3 * x + torch.tensor(wave)).sum()
            value.backward()
            return value

        optimiser.step(loss)
        gradient = jax.grad(lambda f: jnp.sum(bowl * f**2) + 2 * jnp.sum(jnp.sin(3 * f + wave)))(flow)
        curvatures.append(float(jnp.sum((gradient - past.gradient) * past.move)))
        move, past = _lbfgs(gradient, past, 0.6)
        flow = flow + move
        np.testing.assert_allclose(flow, x.detach(), atol=1e-3)
    assert min(curvatures[1:]) < 0 < max(curvatures[1:])  # pairs were left out and kept


# Properties of single attacks


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
