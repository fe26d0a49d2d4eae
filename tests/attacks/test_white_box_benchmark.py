"""The benchmark's own numbers of white-box attacks, and optimisers against their definitions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from white_box import KEY, make_images, squared

from jaxiqa.attacks.korhonen import Korhonen, signed_activity
from jaxiqa.attacks.madc import MADC, project_out
from jaxiqa.attacks.ssah import SSAH
from jaxiqa.attacks.stadv import StAdv, _lbfgs, _no_past
from jaxiqa.attacks.zhang import Zhang

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py


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
