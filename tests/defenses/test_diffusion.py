"""Diffusion tables and steps against records of the original."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.defenses import diffusion


@pytest.fixture
def recorded(shared):
    path = shared / "oracles" / "public" / "05_diffusion_steps.json"
    return json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def test_the_tables_are_those_of_guided_diffusion(recorded):
    _, stored = recorded
    schedule, at = diffusion.linear_schedule(), stored["table_t"]
    ours = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alpha_bar,
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef1": schedule.of_clean,
        "posterior_mean_coef2": schedule.of_noisy,
    }
    for name, table in ours.items():
        np.testing.assert_allclose(table[at], stored[name], rtol=1e-12, err_msg=name)


@pytest.mark.slow
def test_steps_are_those_of_guided_diffusion(recorded):
    """One index per image, several of them 0, in float32 as in the record."""
    _, stored = recorded
    schedule, t = diffusion.linear_schedule(), jnp.asarray(stored["t"])
    x, output, drawn = (jnp.asarray(nhwc(stored[name])) for name in ("x", "model_output", "noise"))
    epsilon = output[..., :3]

    @jax.jit
    def run(schedule):
        mean, log_variance = diffusion.posterior(schedule, x, t, output)
        return {
            "pred_xstart": diffusion.predict_clean(schedule, x, t, epsilon),
            "pred_xstart_unclipped": diffusion.predict_clean(schedule, x, t, epsilon, clip=False),
            "mean": mean,
            "log_variance": log_variance,
            "sample": diffusion.denoise_step(schedule, x, t, output, drawn),
            "q_sample": diffusion.noise(schedule, x, t, drawn),
        }

    assert (stored["t"] == 0).any()
    for name, found in run(schedule).items():
        expected = nhwc(stored[name])
        deviation = np.abs(found - expected).max() / np.abs(expected).max()
        print(name, deviation)
        assert deviation < 1e-5, name
    one = diffusion.denoise_step(schedule, x[3:4], int(t[3]), output[3:4], drawn[3])
    np.testing.assert_allclose(one, nhwc(stored["sample"])[3:4], rtol=1e-5, atol=1e-5)


def test_the_step_of_a_sigma_is_the_recorded_one(recorded):
    record, _ = recorded
    schedule = diffusion.linear_schedule()
    for entry in record["sigma_to_t"]:
        index = diffusion.step_of_sigma(schedule, entry["sigma"])
        assert index == entry["ddrs_t"]
        np.testing.assert_allclose(schedule.ratio[index], entry["ddrs_real_sigma_2x"], rtol=1e-12)
        assert diffusion.step_of_sigma(schedule, entry["sigma"], "densepure") == entry["densepure_t"]


def test_the_step_of_a_sigma_at_the_ends():
    schedule = diffusion.linear_schedule()
    assert diffusion.step_of_sigma(schedule, 1e-9) == 1
    assert diffusion.step_of_sigma(schedule, 1e-9, "densepure") == 0
    last = float(schedule.ratio[-1]) / 2
    assert diffusion.step_of_sigma(schedule, last) == diffusion.step_of_sigma(schedule, last, "densepure") == 999
    with pytest.raises(ValueError, match=r"sigma=200\.0 is outside"):
        diffusion.step_of_sigma(schedule, 200.0)
    with pytest.raises(ValueError, match="rule='nearest' is not allowed"):
        diffusion.step_of_sigma(schedule, 0.1, "nearest")


def test_a_respaced_diffusion_keeps_the_noise_of_the_steps_it_visits():
    schedule = diffusion.linear_schedule()
    short = diffusion.respace(schedule, [35, 70, 400])
    np.testing.assert_allclose(short.alpha_bar, schedule.alpha_bar[[35, 70, 400]], rtol=1e-14)
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alpha_bar, rtol=1e-12)
    whole = diffusion.respace(schedule, range(1000))
    for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(schedule), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    for steps in ([], [70, 35], [3, 3], [-1, 4], [1000]):
        with pytest.raises(ValueError, match="is not allowed; expected ascending numbers"):
            diffusion.respace(schedule, steps)


def test_the_true_noise_restores_the_image():
    """An exact network, made from the clean image, removes the noise for any random draws."""
    clean = jax.random.uniform(jax.random.key(0), (2, 5, 4, 3), minval=-1.0)
    schedule = diffusion.linear_schedule()
    told = []

    def network(x, t):
        told.append(t)
        index = t.astype(int)[:, None, None, None]
        signal, spread = (jnp.asarray(table, x.dtype)[index] for table in (schedule.signal, schedule.spread))
        return jnp.concatenate([(x - signal * clean) / spread, jnp.zeros_like(x)], -1)

    noisy = diffusion.noise(schedule, clean, 19, jax.random.normal(jax.random.key(1), clean.shape))
    found = diffusion.denoise(schedule, network, noisy, 20, jax.random.key(2))
    np.testing.assert_allclose(found, clean, atol=1e-4)  # float32 noise over its smallest share, 0.01
    assert len(told) == 1  # one program for all steps
    assert told[0].shape == (2,)


@pytest.mark.slow
def test_reverse_steps_are_equal_with_and_without_jit_and_depend_on_the_key():
    schedule = diffusion.linear_schedule()
    weight = jax.random.normal(jax.random.key(0), (3, 6))
    network = jax.tree_util.Partial(lambda w, x, t: jnp.tanh(x @ w + t[:, None, None, None] / 10), weight)
    x, key = jax.random.normal(jax.random.key(1), (2, 5, 4, 3)), jax.random.key(2)
    back = diffusion.denoise(schedule, network, x, 3, key)
    np.testing.assert_array_equal(back, diffusion.denoise(schedule, network, x, 3, key))
    np.testing.assert_allclose(diffusion._denoise_in_a_loop(schedule, network, x, 3, key), back, atol=1e-6)
    alone = diffusion.denoise(schedule, network, x[1:], 3, key)
    np.testing.assert_allclose(alone, back[1:], atol=1e-6)
    assert np.abs(diffusion.denoise(schedule, network, x, 3, jax.random.key(3)) - back).max() > 1e-3

    def plain(x):
        for t in (2, 1, 0):
            drawn = jax.random.normal(jax.random.fold_in(key, t), x.shape[1:])
            x = diffusion.denoise_step(schedule, x, t, diffusion.ask(schedule, network, x, t), drawn)
        return x

    for run in (
        lambda x: diffusion.denoise(schedule, network, x, 3, key),
        lambda x: diffusion._denoise_in_a_loop(schedule, network, x, 3, key),
    ):
        (value, gradient) = jax.value_and_grad(lambda x: (run(x) ** 2).sum())(x)  # noqa: B023
        (expected, by_hand) = jax.value_and_grad(lambda x: (plain(x) ** 2).sum())(x)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, by_hand, atol=1e-6 * np.abs(by_hand).max())
        assert np.abs(by_hand).max() > 0
