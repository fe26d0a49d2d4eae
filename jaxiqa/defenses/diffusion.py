"""Denoising diffusion as pure functions, shared by DiffPure, DDRS and DensePure.

All images are in [-1, 1]. The *network* is ``(x b h w 3, t b) -> b h w 6``: the noise in ``x``, and the variance of the
reverse step, as a position between its two bounds. ``t`` is an index into the tables of the schedule, 0 for the least
noise; the network gets the time step of its training, ``schedule.timesteps[t]``.

Reference: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv:2006.11239; Nichol and Dhariwal, "Improved
Denoising Diffusion Probabilistic Models", arXiv:2102.09672.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.types import Images, PRNGKey

Step = int | Int[Array, ""] | Int[Array, " b"]
Table = Any  # an array: NumPy's, JAX's, or a tracer
Network = Callable[[Images, Float[Array, " b"]], Float[Array, "b h w 6"]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # arrays are not compared
class Schedule:
    """The tables of a diffusion of T steps, float64 of shape (T,); create it by `linear_schedule` or `respace`.

    Attributes:
        timesteps: time step that the network gets.
        betas: variance added by the step, β.
        alpha_bar: remaining share of the clean image's variance, ᾱ = Π (1 − β).
        signal, spread: √ᾱ and √(1 − ᾱ): ``x_t = signal · x_0 + spread · noise``.
        ratio: √(1/ᾱ − 1), the noise in units of the clean image.
        posterior_variance: β (1 − ᾱ_{t−1}) / (1 − ᾱ_t), of x_{t−1} given x_t and x_0.
        posterior_log_variance: its logarithm; the first entry, −∞, is replaced by the second.
        of_clean, of_noisy: weights of x_0 and x_t in the mean of x_{t−1}.
    """

    timesteps: Table
    betas: Table
    alpha_bar: Table
    signal: Table
    spread: Table
    ratio: Table
    posterior_variance: Table
    posterior_log_variance: Table
    of_clean: Table
    of_noisy: Table


def linear_schedule(steps: int = 1000) -> Schedule:
    """Return the schedule with β from 1e-4 to 2e-2 in 1000 equal steps; for other ``steps``, β times 1000 / ``steps``.

    >>> print(linear_schedule().alpha_bar[[0, 70, 999]].round(6))
    [9.99900e-01 9.44944e-01 4.00000e-05]
    """
    check_number("steps", steps, 21)  # with fewer steps β reaches 1
    betas = np.linspace(0.1 / steps, 20 / steps, steps)
    return _tables(np.arange(steps, dtype=np.float64), betas, np.cumprod(1 - betas))


def respace(schedule: Schedule, steps: Sequence[int]) -> Schedule:
    """Return the diffusion with only these ascending steps of ``schedule``.

    >>> short = respace(linear_schedule(), [35, 70])
    >>> print(short.timesteps, short.betas.round(4))
    [35. 70.] [0.016  0.0397]

    Reference: "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672, section 4.
    """
    chosen = np.asarray(steps)
    if not len(chosen) or (np.diff(chosen) <= 0).any() or chosen[0] < 0 or chosen[-1] >= len(schedule.betas):
        raise ValueError(
            f"steps={chosen.tolist()} is not allowed; expected ascending numbers in [0, {len(schedule.betas)})"
        )
    alpha_bar = np.asarray(schedule.alpha_bar)[chosen]
    betas = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return _tables(np.asarray(schedule.timesteps)[chosen], betas, alpha_bar)


def _tables(timesteps: np.ndarray, betas: np.ndarray, alpha_bar: np.ndarray) -> Schedule:
    previous = np.concatenate([[1.0], alpha_bar[:-1]])
    variance = betas * (1 - previous) / (1 - alpha_bar)
    clipped = np.concatenate([variance[1:2] if len(variance) > 1 else betas, variance[1:]])
    return Schedule(
        timesteps=timesteps,
        betas=betas,
        alpha_bar=alpha_bar,
        signal=np.sqrt(alpha_bar),
        spread=np.sqrt(1 - alpha_bar),
        ratio=np.sqrt(1 / alpha_bar - 1),
        posterior_variance=variance,
        posterior_log_variance=np.log(clipped),
        of_clean=betas * np.sqrt(previous) / (1 - alpha_bar),
        of_noisy=(1 - previous) * np.sqrt(1 - betas) / (1 - alpha_bar),
    )


def step_of_sigma(schedule: Schedule, sigma: float, rule: str = "ddrs") -> int:
    """Return the index whose noise matches ``sigma``, in units of images in [0, 1]: 2 sigma for images in [-1, 1].

    Args:
        schedule: the diffusion.
        sigma: standard deviation of the noise; a number, not traced.
        rule: ``"ddrs"``: the first index, except 0, with ratio >= 2 sigma. ``"densepure"``: the index whose ratio is
            nearest to 2 sigma.

    Raises:
        ValueError: the rule is unknown, or the schedule does not reach sigma.

    >>> [step_of_sigma(linear_schedule(), 0.25, rule) for rule in ("ddrs", "densepure")]
    [145, 144]

    Reference: DDRS: "(Certified!!) Adversarial Robustness for Free!", arXiv:2206.10550. DensePure: "DensePure:
    Understanding Diffusion Models towards Adversarial Robustness", arXiv:2211.00322.
    """
    check_choice("rule", rule, ("ddrs", "densepure"))
    ratio = np.asarray(schedule.ratio)
    check_number("sigma", sigma, 0.0, float(ratio[-1]) / 2)
    after = int(np.searchsorted(ratio, 2 * sigma))
    if rule == "ddrs":
        return min(max(after, 1), len(ratio) - 1)
    before = max(after - 1, 0)
    return before if 2 * sigma - ratio[before] <= ratio[after] - 2 * sigma else after


def noise(schedule: Schedule, clean: Images, t: Step, drawn: Float[Array, "*b h w c"]) -> Images:
    """Compute ``x_t = √ᾱ x_0 + √(1 − ᾱ) drawn``; ``t``: one index or one per image. Images in [-1, 1], drawn ~ N(0, 1).

    >>> x = noise(linear_schedule(), jnp.ones((1, 1, 1, 3)), 70, jnp.zeros((1, 1, 3)))
    >>> print(f"{x[0, 0, 0, 0]:.4f}")
    0.9721
    """
    return _at(schedule.signal, t, clean) * clean + _at(schedule.spread, t, clean) * drawn


def predict_clean(
    schedule: Schedule, noisy: Images, t: Step, epsilon: Float[Array, "b h w 3"], *, clip: bool = True
) -> Images:
    """Compute ``x_0 = x_t / √ᾱ − √(1/ᾱ − 1) ε``, clipped to [-1, 1] by default.

    Args:
        schedule: the diffusion.
        noisy: x_t.
        t: its index, one or one per image.
        epsilon: the noise in x_t, the first three channels of the network's output.
        clip: whether to clip. Clipped values have a gradient of 0.

    >>> clean = predict_clean(linear_schedule(), jnp.full((1, 1, 1, 3), 0.9), 70, jnp.zeros((1, 1, 1, 3)))
    >>> print(f"{clean[0, 0, 0, 0]:.4f}")
    0.9258
    """
    clean = noisy / _at(schedule.signal, t, noisy) - _at(schedule.ratio, t, noisy) * epsilon
    return jnp.clip(clean, -1, 1) if clip else clean


def posterior(
    schedule: Schedule, noisy: Images, t: Step, output: Float[Array, "b h w 6"]
) -> tuple[Images, Float[Array, "b h w 3"]]:
    """Compute mean and log-variance of x_{t−1} from the network's output for x_t.

        mean = of_clean · x̂_0 + of_noisy · x_t,   log-variance = f log β + (1 − f) log posterior variance

    with x̂_0 of `predict_clean`, clipped, and f = (v + 1) / 2 for the output's last three channels v.
    """
    epsilon, v = jnp.split(output, 2, -1)
    clean = predict_clean(schedule, noisy, t, epsilon)
    mean = _at(schedule.of_clean, t, noisy) * clean + _at(schedule.of_noisy, t, noisy) * noisy
    share = (v + 1) / 2
    high, low = _at(jnp.log(schedule.betas), t, noisy), _at(schedule.posterior_log_variance, t, noisy)
    return mean, share * high + (1 - share) * low


def denoise_step(
    schedule: Schedule, noisy: Images, t: Step, output: Float[Array, "b h w 6"], drawn: Float[Array, "*b h w 3"]
) -> Images:
    """Run one reverse step, x_{t−1} from x_t: the mean of the `posterior`, plus its deviation times ``drawn`` if t > 0.

    >>> x, output = jnp.full((1, 2, 2, 3), 0.5), jnp.zeros((1, 2, 2, 6))
    >>> back = denoise_step(linear_schedule(), x, 70, output, jnp.zeros((2, 2, 3)))
    >>> print(f"{back[0, 0, 0, 0]:.4f}")
    0.5004
    """
    mean, log_variance = posterior(schedule, noisy, t, output)
    last = _wide(jnp.asarray(t) == 0, noisy)
    return mean + jnp.where(last, 0, jnp.exp(log_variance / 2) * drawn)


def ask(schedule: Schedule, network: Network, noisy: Images, t: Step) -> Float[Array, "b h w 6"]:
    """Call the network on ``noisy`` with the time step of index ``t``.

    Raises:
        ValueError: the output is not ``b h w 6``; other shapes would be broadcast or cut silently.
    """
    told = jnp.asarray(schedule.timesteps, noisy.dtype)[t]
    said = network(noisy, jnp.broadcast_to(told, noisy.shape[:1]))
    if said.shape != (*noisy.shape[:3], 6):
        raise ValueError(
            f"network returned shape {said.shape} for images {noisy.shape}; expected {(*noisy.shape[:3], 6)}"
        )
    return said


def denoise(schedule: Schedule, network: Network, noisy: Images, steps: int, key: PRNGKey) -> Images:
    """Run ``steps`` reverse steps, from index ``steps − 1`` to the clean image.

    It is differentiable. Every step is a checkpoint (`jax.checkpoint`): the backward pass stores one image per step and
    runs the network a second time. Without a gradient a checkpoint costs nothing and changes no number. On a CPU the
    steps are a Python loop, elsewhere a compiled loop.

    Args:
        schedule: the diffusion, of at least ``steps`` steps.
        network: the diffusion network, a callable pytree (or a function, compiled once per object).
        noisy: x_{steps−1}, in [-1, 1] plus noise.
        steps: number of steps, >= 1.
        key: random key of the noise of all steps, the same for all images of the batch.

    >>> flat = lambda x, t: jnp.zeros((*x.shape[:3], 6))
    >>> denoise(linear_schedule(), flat, jnp.zeros((2, 3, 4, 3)), 2, jax.random.key(0)).shape
    (2, 3, 4, 3)
    """
    check_number("steps", steps, 1, len(schedule.betas))
    if jax.tree_util.all_leaves([network]):
        network = jax.tree_util.Partial(network)
    if jax.default_backend() != "cpu":
        return _denoise_in_a_loop(schedule, network, noisy, steps, key)
    for t in reversed(range(steps)):  # on CPUs a convolution in a compiled loop is many times slower
        noisy = _step_back(schedule, network, noisy, t, key)
    return noisy


@jax.jit
@jax.checkpoint
def _step_back(schedule: Schedule, network: Any, noisy: Images, t: Any, key: PRNGKey) -> Images:
    drawn = jax.random.normal(jax.random.fold_in(key, t), noisy.shape[1:], noisy.dtype)
    return denoise_step(schedule, noisy, t, ask(schedule, network, noisy, t), drawn)


@partial(jax.jit, static_argnames="steps")
def _denoise_in_a_loop(schedule, network, noisy, steps, key):
    def step(noisy, t):
        return _step_back(schedule, network, noisy, t, key), None

    return jax.lax.scan(step, noisy, jnp.arange(steps)[::-1])[0]


def _at(table: Table, t: Step, images: Images) -> Array:
    """Return the table's entries at ``t``, in the type of the images and in a shape that multiplies them."""
    return _wide(jnp.asarray(table, images.dtype)[jnp.asarray(t)], images)


def _wide(values: Array, images: Images) -> Array:
    """Reshape one value per image to ``b 1 1 1``; return a single value unchanged."""
    return values.reshape(-1, *[1] * (images.ndim - 1)) if values.ndim else values
