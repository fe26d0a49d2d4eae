"""What every attack promises, and what single ones must reach."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa import attacks
from jaxiqa.arguments import image_keys
from jaxiqa.attacks import ATTACKS, FITTED, PGD, UAP, fit_facpa, fit_uap, make, sweep
from jaxiqa.attacks.threat import project_l2, project_linf

KEY = jax.random.key(3)
EPSILON = 8 / 255


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def mean_square(images, clean):
    return ((images - clean) ** 2).mean((1, 2, 3))


def tint(lightness, hints, mask):
    return jnp.tanh(hints + mask)


FAST = {
    "apgd": {"steps": 6},
    "cadv": {"colorize": tint, "steps": 4, "step_size": 0.01, "hints": 5},
    "fgsm": {},
    "ifgsm": {"steps": 4},
    "korhonen": {"steps": 3, "score_scale": 1.0},
    "madc": {"steps": 3},
    "nes": {"steps": 6, "pairs": 8},
    "one_pixel": {"pixels": 3, "population": 12, "generations": 4},
    "parsimonious": {"queries": 60},
    "patch_rs": {"area": 9, "queries": 60},
    "pgd": {"steps": 4},
    "square": {"queries": 150},
    "ssah": {"steps": 20, "step_size": 0.01, "score_scale": 1.0},
    "stadv": {"steps": 4, "score_scale": 1.0},
    "zhang": {"distance": mean_square, "steps": 3, "step_size": 0.01, "score_scale": 1.0},
}
"""Options under which every attack of the registry is quick, apart from its ε."""
MINIMUM = {"korhonen": 3, "patch_rs": 3, "stadv": 2}
"""Pixels that the sides of an image have at least."""
FITTING = {
    "uap": {"epsilon": EPSILON, "batch_size": 3},
    "facpa": {"network": jax.tree_util.Partial(lambda shift, x: jnp.tanh(x + shift), jnp.zeros(3)), "multiple": 1},
}
WEIGHTS = jax.random.normal(jax.random.key(9), (3, 3, 3, 4)) / 3


def score(images):
    """A small smooth metric that works on any size and looks at every pixel."""
    x = jax.lax.conv_general_dilated(images, WEIGHTS, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(x).mean((1, 2)) @ jnp.array([1.0, -2.0, 0.5, 1.5])


def pictures(shape=(3, 9, 14, 3), seed=0):
    return jax.random.uniform(jax.random.key(seed), shape)


def is_bounded(name):
    return name in ATTACKS and "epsilon" in {field.name for field in dataclasses.fields(ATTACKS[name])}


def an_attack(name, images, **options):
    """A quick attack of this name; a fitted one has been fitted on these images."""
    if name == "uap":
        return fit_uap(score, images, KEY, epsilon=EPSILON, epochs=2, batch_size=2, **options)
    if name == "facpa":
        network = jax.tree_util.Partial(lambda shift, x: jnp.tanh(x - 0.5 + shift), jnp.zeros(3))
        fitting = {"epsilon": EPSILON, "multiple": 1, "epochs": 20, "batch_size": 3, "step_size": 0.3}
        return fit_facpa(score, images, KEY, network=network, **fitting, **options)
    return make(name, **({"epsilon": EPSILON} if is_bounded(name) else {}), **FAST[name], **options)


NAMES = [*ATTACKS, *FITTED]


@pytest.mark.parametrize("name", ATTACKS)
def test_no_step_compiles_the_metric_twice(name):
    """Published metrics take up to half a minute, and a state of another type after the first step is enough for it."""
    traced = []

    def counted(images):
        traced.append(images.shape)
        return score(images)

    an_attack(name, pictures())(counted, pictures(), KEY)
    assert len(traced) == len(set(traced))  # black-box attacks ask about batches of several sizes


@pytest.mark.parametrize("name", [slow(name) if name == "korhonen" else name for name in NAMES])
def test_the_contract(name):
    images = pictures()
    attack = an_attack(name, images)
    attacked = attack(score, images, KEY)
    assert attacked.shape == images.shape
    assert attacked.dtype == images.dtype
    assert np.isfinite(attacked).all()
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    if is_bounded(name) or name in FITTED:
        assert float(jnp.abs(attacked - images).max()) <= EPSILON + 1e-6
    np.testing.assert_array_equal(attacked, attack(score, images, KEY))
    gains = score(attacked) - score(images)
    if name in FITTED:
        assert float(gains.mean()) > 1e-3
    elif name == "cadv":  # painting anew comes first, whatever that does to the score
        opposite = an_attack(name, images, objective="lower")(score, images, KEY)
        assert (score(attacked) > score(opposite) + 1e-4).all()
    else:
        assert (gains > 1e-3).all()
    inside = jax.jit(lambda x: attack(score, x, KEY))(images)
    np.testing.assert_allclose(attacked, inside, atol=1e-5)
    keys = image_keys(KEY, len(images))
    for i in range(len(images)):
        np.testing.assert_allclose(attack(score, images[i : i + 1], keys[i : i + 1])[0], attacked[i], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), slow((2, 2)), slow((1, 7)), (5, 3)])
def test_tiny_images_are_attacked_or_refused_clearly(name, size):
    images = pictures((1, *size, 3))
    if min(size) < MINIMUM.get(name, 1):
        with pytest.raises(ValueError, match=f"at least {MINIMUM[name]} pixels"):
            an_attack(name, images)(score, images, KEY)
        return
    attacked = an_attack(name, images)(score, images, KEY)
    assert attacked.shape == images.shape
    assert np.isfinite(attacked).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "images", [jnp.zeros((4, 4, 3)), jnp.full((1, 4, 4, 3), 255.0), jnp.zeros((1, 4, 4, 3), jnp.uint8)]
)
def test_images_of_the_wrong_kind_are_refused(name, images):
    attack = an_attack(name, pictures((2, 4, 4, 3)))
    with pytest.raises(Exception, match=r"images|b h w c"):
        attack(score, images, KEY)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cadv"])
def test_lowering_is_raising_the_negative(name):
    images = pictures()
    change = score(an_attack(name, images, objective="lower")(score, images, KEY)) - score(images)
    assert float(change.mean()) < -1e-3 if name in FITTED else bool((change < -1e-3).all())


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_linf_pgd_reaches_the_optimum_of_a_linear_score_with_active_bounds(steps):
    images = pictures((2, 6, 5, 3))
    images = images.at[0].set(jnp.round(images[0]))  # pixels that are already at 0 or 1
    direction = jax.random.normal(jax.random.key(1), images.shape[1:])
    attacked = PGD(0.1, steps=steps, random_start=False)(lambda x: (x * direction).sum((1, 2, 3)), images, KEY)
    np.testing.assert_allclose(attacked, jnp.clip(images + 0.1 * jnp.sign(direction), 0, 1), atol=1e-6)


def best_in_l2_ball(clean, direction, epsilon):
    """Maximum of a linear score over ball and box, by its Lagrange conditions and bisection in float64."""
    clean, direction = np.asarray(clean, np.float64), np.asarray(direction, np.float64)
    low, high = 0.0, 1e6
    for _ in range(200):
        scale = (low + high) / 2
        length = np.linalg.norm(np.clip(clean + scale * direction, 0, 1) - clean)
        low, high = (scale, high) if length <= epsilon else (low, scale)
    return np.clip(clean + low * direction, 0, 1)


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_l2_pgd_reaches_the_optimum_of_a_linear_score_with_active_bounds(epsilon):
    images = pictures((2, 6, 5, 3))
    direction = jax.random.normal(jax.random.key(1), images.shape[1:])
    attack = PGD(epsilon, steps=60, norm="l2", random_start=False, step_size=epsilon)
    attacked = attack(lambda x: (x * direction).sum((1, 2, 3)), images, KEY)
    for clean, found in zip(images, attacked, strict=True):
        best = best_in_l2_ball(clean, direction, epsilon)
        assert np.linalg.norm(np.asarray(found, np.float64) - clean) <= epsilon + 1e-6
        assert float((found * direction).sum()) >= (best * np.asarray(direction)).sum() - 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_help_and_a_random_start_follows_its_key(norm):
    epsilon = EPSILON if norm == "linf" else 0.5
    images = pictures()
    clean = score(images)
    for steps in (1, 10):
        assert (score(PGD(epsilon, steps=steps, norm=norm)(score, images, KEY)) > clean).all()
    one, ten = (score(PGD(epsilon, steps=s, norm=norm, random_start=False)(score, images, KEY)).mean() for s in (1, 10))
    assert float(ten) >= float(one)
    first, second = (PGD(epsilon, steps=1, norm=norm)(score, images, jax.random.key(k)) for k in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("epsilon", [0.05, 0.4])
def test_projections_are_the_nearest_points(epsilon):
    """Against SciPy's constrained minimiser, on a box whose lower bound is not zero."""
    from scipy.optimize import minimize

    random = np.random.default_rng(0)
    clean, x = random.uniform(0.2, 0.9, 6), random.normal(size=6)
    ball = {"type": "ineq", "fun": lambda y: epsilon**2 - np.sum((y - clean) ** 2)}
    exact = minimize(lambda y: np.sum((y - x) ** 2), clean, bounds=[(0.2, 0.9)] * 6, constraints=ball, tol=1e-14).x
    image = lambda v: jnp.asarray(v, jnp.float32).reshape(1, 2, 3)  # noqa: E731
    found = project_l2(image(x), image(clean), epsilon, low=0.2, high=0.9)
    np.testing.assert_allclose(found.ravel(), exact, atol=2e-4)
    box = np.clip(x, np.maximum(clean - epsilon, 0.2), np.minimum(clean + epsilon, 0.9))
    np.testing.assert_allclose(project_linf(image(x), image(clean), epsilon, low=0.2, high=0.9).ravel(), box, atol=1e-6)


def test_a_sweep_equals_single_runs_and_compiles_once():
    traces = []

    def counted(images):
        traces.append(None)
        return score(images)

    images, epsilons = pictures(), jnp.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) / 255
    attacked = sweep(PGD(0.0, steps=3), counted, images, KEY, epsilons)
    assert len(traces) == 1
    for index in (0, 9):
        single = PGD(float(epsilons[index]), steps=3)(score, images, KEY)
        np.testing.assert_allclose(attacked[index], single, atol=1e-6)


def gradients_counted(attack, images, epsilons):
    """The sweep, and how many gradients it took: at run time each calls back once per evaluation of the score."""
    calls = []

    def counted(images):
        jax.debug.callback(lambda: calls.append(None))
        return score(images)

    attacked = sweep(attack, counted, images, KEY, epsilons)
    jax.effects_barrier()
    return attacked, len(calls)


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "pgd"])
def test_a_sweep_shares_the_gradient_at_the_clean_images(name):
    steps = {"fgsm": 1, "ifgsm": 4, "pgd": 4}[name]
    options = {"random_start": False} if name == "pgd" else {}
    attack = make(name, epsilon=0.0, **FAST.get(name, {}) | options)
    _, gradients = gradients_counted(attack, pictures(), [0.1, 0.2, 0.3])
    assert gradients == 1 + 3 * (steps - 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sweep_walks_the_steps_inside_the_smaller_balls_once(norm):
    images = pictures()
    size = 1 / 255 if norm == "linf" else 0.02
    attack = PGD(0.0, steps=6, step_size=2 * size, norm=norm, random_start=False)
    # The balls are left after 1, 2 and 5 steps; the last one would be after 6, which is more than the run has.
    epsilons = [3 * size, 4 * size, 10 * size, 13 * size]
    attacked, gradients = gradients_counted(attack, images, epsilons)
    assert gradients == (1 + 5) + 4 + 3 + 0 + 0
    for epsilon, found in zip(epsilons, attacked, strict=True):
        single = dataclasses.replace(attack, epsilon=epsilon)(score, images, KEY)
        np.testing.assert_allclose(found, single, atol=1e-6)


def test_models_of_one_structure_share_a_compiled_attack():
    traces = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Linear:
        weight: jax.Array

        def __call__(self, images):
            traces.append(None)
            return (images * self.weight).sum((1, 2, 3))

    images = pictures((1, 4, 4, 3))
    for value in (1.0, -1.0):
        attacked = PGD(0.1, steps=2, random_start=False)(Linear(jnp.full((4, 4, 3), value)), images, KEY)
        np.testing.assert_allclose(attacked, jnp.clip(images + 0.1 * value, 0, 1), atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_score_that_is_not_finite_is_reported_with_its_image(name, bad):
    def broken(images):
        return jnp.where(jnp.arange(len(images)) == 1, bad, 1.0) * images.mean((1, 2, 3))

    run = partial(FITTED[name].fit, **FITTING[name]) if name in FITTED else an_attack(name, pictures())
    with pytest.raises(ValueError, match="finite"):
        run(broken, pictures(), KEY)


def test_fitting_reports_scores_that_are_not_finite_though_their_gradient_is():
    with pytest.raises(ValueError, match="non-finite"):
        fit_uap(lambda x: x.mean((1, 2, 3)) + jnp.nan, pictures(), KEY, epsilon=EPSILON)


@pytest.mark.parametrize("name", ["pgd", "stadv"])
def test_an_attack_on_constant_images_runs_inside_the_jit_of_a_model(name):
    images, weight = pictures((1, 4, 4, 3)), jnp.ones((4, 4, 3))
    attack = an_attack(name, images)
    inside = jax.jit(lambda w: attack(lambda x: (x * w).sum((1, 2, 3)), images, KEY))(weight)
    np.testing.assert_allclose(inside, attack(lambda x: (x * weight).sum((1, 2, 3)), images, KEY), atol=1e-5)


def test_sweeps_and_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="has no"):
        sweep(attacks.Restarts(PGD(0.1)), score, pictures(), KEY, jnp.array([0.1]))
    with pytest.raises(ValueError, match="strengths is empty"):
        sweep(PGD(0.1), score, pictures(), KEY, jnp.zeros(0))
    with pytest.raises(ValueError, match="at least one image"):
        PGD(0.1)(score, pictures()[:0], KEY)
    assert sweep(make("ifgsm", epsilon=0.0), score, pictures(), KEY, jnp.array([0.1])).shape == (1, *pictures().shape)


def test_a_universal_perturbation_helps_on_images_it_has_not_seen_and_survives_the_disk(tmp_path):
    attack = fit_uap(score, pictures((8, 9, 14, 3), seed=1), KEY, epsilon=EPSILON, epochs=20, batch_size=3)
    others = pictures((6, 9, 14, 3), seed=2)
    gain = float((score(attack(None, others, KEY)) - score(others)).mean())
    noise = jax.random.rademacher(KEY, others.shape[1:], jnp.float32) * EPSILON
    assert gain > 3 * abs(float((score(jnp.clip(others + noise, 0, 1)) - score(others)).mean()))
    attacks.save(attack, tmp_path / "a" / "uap.safetensors")
    np.testing.assert_array_equal(attacks.load(tmp_path / "a" / "uap.safetensors").delta, attack.delta)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        attacks.load(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="fitted for"):
        UAP(attack.delta)(None, pictures((1, 9, 14, 1)), KEY)


def test_a_smoother_flow_is_cheaper_and_weaker():
    images = pictures((2, 16, 16, 3))
    free, dear = (
        attacks.StAdv(flow_weight=weight, score_scale=1.0, steps=10)(score, images, KEY) for weight in (0.0, 10.0)
    )
    assert float(score(free).mean()) > float(score(dear).mean())
    assert float(jnp.abs(dear - images).mean()) < float(jnp.abs(free - images).mean())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pdg", {}, "'pgd'"),
        ("pgd", {"eps": 0.1}, "'epsilon'"),
        ("pgd", {"steps": 3}, "needs epsilon"),
        ("pgd", {"epsilon": 8.0}, "epsilon"),
        ("pgd", {"epsilon": 0.1, "steps": 0}, "steps"),
        ("ifgsm", {"epsilon": 0.1, "steps": 0}, "steps"),
        ("pgd", {"epsilon": 0.1, "norm": "l1"}, "norm"),
        ("stadv", {"score_scale": 0.0}, "score_scale"),
        ("ifgsm", {"epsilon": 0.1, "objective": "up"}, "objective"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)
