"""Sweeps give the results of single runs and compute shared steps once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_metric import KEY, make_images, score

from jaxiqa import attacks
from jaxiqa.attacks import PGD, make, sweep


@pytest.mark.slow
def test_a_sweep_equals_single_runs_and_compiles_once():
    traces = []

    def counted(images):
        traces.append(None)
        return score(images)

    images, epsilons = make_images(), jnp.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) / 255
    attacked = sweep(PGD(0.0, steps=3), counted, images, KEY, epsilons)
    assert len(traces) == 1
    for index in (0, 9):
        single = PGD(float(epsilons[index]), steps=3)(score, images, KEY)
        np.testing.assert_allclose(attacked[index], single, atol=1e-6)


def gradients_counted(attack, images, epsilons):
    """Return the sweep and its number of gradients: each evaluation of the score calls back once at run time."""
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
    attack = make(name, epsilon=0.0, **({} if name == "fgsm" else {"steps": steps}), **options)
    _, gradients = gradients_counted(attack, make_images(), [0.1, 0.2, 0.3])
    assert gradients == 1 + 3 * (steps - 1)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sweep_computes_steps_inside_the_smaller_balls_once(norm):
    images = make_images()
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

    images = make_images((1, 4, 4, 3))
    for value in (1.0, -1.0):
        attacked = PGD(0.1, steps=2, random_start=False)(Linear(jnp.full((4, 4, 3), value)), images, KEY)
        np.testing.assert_allclose(attacked, jnp.clip(images + 0.1 * value, 0, 1), atol=1e-6)
    assert len(traces) == 1


def test_empty_sweeps_and_batches_are_refused():
    with pytest.raises(ValueError, match="has no"):
        sweep(attacks.Restarts(PGD(0.1)), score, make_images(), KEY, jnp.array([0.1]))
    with pytest.raises(ValueError, match="strengths is empty"):
        sweep(PGD(0.1), score, make_images(), KEY, jnp.zeros(0))
    with pytest.raises(ValueError, match="at least one image"):
        PGD(0.1)(score, make_images()[:0], KEY)
    images = make_images()
    assert sweep(make("ifgsm", epsilon=0.0), score, images, KEY, jnp.array([0.1])).shape == (1, *images.shape)
