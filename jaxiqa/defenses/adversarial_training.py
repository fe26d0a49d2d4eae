"""Adversarial training (attacked images with lowered or unchanged labels) and a penalty on the gradient norm.

Both take the metric as a score function; the caller runs the optimisation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import image_keys
from jaxiqa.core.pytrees import as_pytree, trained
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import AttackFn, Images, PRNGKey, ScoreFn, Scores
from jaxiqa.ops.ssim import ms_ssim, ssim

Distance = Callable[[Images, Images], Scores]
Gather = Callable[[Array], Array]
Number = int | float | Float[Array, ""]


def _alone(x: Array) -> Array:
    """Gather from one device: return the values unchanged."""
    return x


LABELS: dict[str, Distance] = {
    "unchanged": lambda clean, attacked: jnp.zeros(len(clean), clean.dtype),
    "minimum": lambda clean, attacked: jnp.ones(len(clean), clean.dtype),
    "ssim": lambda clean, attacked: 1 - ssim(clean, attacked),
    "ms_ssim": lambda clean, attacked: 1 - ms_ssim(clean, attacked),
}
"""Distance of an attacked image from the clean one, ``(clean, attacked) -> b``; `relabel` lowers its label by it.

"minimum" is 1 for every image: with a penalty of 1 all labels become the lowest label, with 0.1 they fall by a tenth of
their range. LPIPS is a network of `jaxiqa.networks`.
"""

ADVERSARIAL_PRESETS: dict[str, dict[str, Any]] = {
    f"{label}_{strength}": {
        "attack": "apgd",
        "epsilon": strength / 255,
        "options": {"steps": 2, "random_start": False},
        "label": label,
    }
    for label in ("ssim", "lpips")
    for strength in (2, 4, 8)
}
"""Six set-ups of "Guardians of Image Quality", arXiv:2408.01541: two-step APGD from the clean image, 2 labels, 3 ε."""


def relabel(
    mos: Scores, distance: Float[Array, " b"], *, low: Number, high: Number, penalty: Number = 1.0
) -> Float[Array, " b"]:
    """Return the labels of attacked images: ``clip(mos − penalty · distance · (high − low), low, high)``.

    Args:
        mos: labels of the clean images, in any unit.
        distance: distance from the clean to the attacked image: 0 for equal images, about 1 for unrelated images.
        low, high: lowest and highest possible label, in the unit of ``mos``.
        penalty: share of the range by which a distance of 1 lowers the label, >= 0.

    >>> relabel(jnp.array([90.0, 20.0]), jnp.array([0.25, 0.25]), low=4.0, high=88.0).tolist()
    [69.0, 4.0]

    Reference: Chistyakova et al., "Increasing the robustness of image quality assessment models through adversarial
    training", Technologies 12(11):220, 2024.
    """
    return jnp.clip(mos - penalty * distance * (high - low), low, high)


def deviation(score_fn: ScoreFn, mos: Scores, gather: Gather = _alone) -> ScoreFn:
    """Return a score function: the distance ``|p̂ᵢ − ŷᵢ|`` of each score p from its label y, both normalised by

        x̂ = (x − mean x) / (‖x − mean x‖₂ + 1e-8).

    These are the summands of the norm-in-norm loss ("Norm-in-Norm Loss with Faster Convergence and Better Performance
    for Image Quality Assessment", arXiv:2008.03889). An attack that raises them increases the loss of the batch, by
    higher or by lower scores. For a single image the distance and its gradient are 0.

    Args:
        score_fn: the metric.
        mos: label of each image that will be scored.
        gather: collects the values of all devices, in a function that runs on several devices.

    Returns:
        The score function, a pytree that can be an argument of jitted functions.

    >>> away = deviation(lambda x: x.mean((1, 2, 3)), jnp.array([1.0, 3.0]))
    >>> print(away(jnp.array([0.2, 0.1]).reshape(2, 1, 1, 1)).round(3))
    [1.414 1.414]
    """
    return Partial(partial(_deviation, gather), as_pytree(score_fn), mos)


def adversarial_batch(
    attack: AttackFn,
    score_fn: ScoreFn,
    images: Images,
    mos: Scores,
    key: PRNGKey | Key[Array, " b"],
    *,
    low: Number,
    high: Number,
    distance: Distance = LABELS["ssim"],
    penalty: Number = 1.0,
    target: str = "loss",
    clean: bool = True,
    weakest: float = 1.0,
    gather: Gather = _alone,
) -> tuple[Float[Array, "b2 h w c"], Float[Array, " b2"]]:
    """Make a training batch: attacked copies, then the clean images, each with a label.

    Args:
        attack: the attack that makes the copies; see `jaxiqa.attacks`.
        score_fn: the metric with its present weights. No gradient flows through the attack.
        images: ``b h w c`` in [0, 1].
        mos: labels of the images, in any unit.
        key: random key of the attack, one or one per image.
        low, high, penalty: see `relabel`.
        distance: ``(clean, attacked) -> b``, see `LABELS`.
        target: what the attack raises: "loss", the `deviation` of scores from labels; "score", the score itself
            (an attack with ``objective="lower"`` lowers it); or "either": the scores of a random half of the images,
            and it lowers the others. Then the direction of a change tells nothing about the label.
        clean: False: only the attacked images. A step costs less, and every image is seen under attack.
        weakest: in [0, 1]. Every perturbation is multiplied by a random number from here to 1, so that images nearer to
            the clean one are seen too. 1: no multiplication.
        gather: see `deviation`.

    Returns:
        2b images and their 2b labels; b of each without clean images.

    Raises:
        ValueError: the target is unknown, the penalty is negative, ``weakest`` is out of range, or ``attack`` or
            ``distance`` raise it.

    >>> attack = lambda score_fn, images, key: images + 0.1
    >>> images, mos = jnp.full((2, 12, 12, 3), 0.5), jnp.array([10.0, 90.0])
    >>> images, mos = adversarial_batch(
    ...     attack, lambda x: x.mean((1, 2, 3)), images, mos, jax.random.key(0), low=0.0, high=100.0
    ... )
    >>> [round(label, 1) for label in mos.tolist()]  # SSIM is 0.984
    [8.4, 88.4, 10.0, 90.0]

    Reference: as for `relabel`; the set-ups of "Guardians of Image Quality", arXiv:2408.01541, are
    `ADVERSARIAL_PRESETS`.

    **Differs from the benchmark's code**: with unchanged labels, training uses the clean images too. By default the
    callers here give a score function with batch norm in inference mode; the benchmark attacked in training mode. The
    first step of APGD (`jaxiqa.attacks.APGD`) is 2ε, as in its paper; the benchmark's was ε.
    """
    check_choice("target", target, ("loss", "score", "either"))
    check_number("weakest", weakest, 0.0, 1.0)
    check_unit_images(images, channels=3)
    if mos.shape != images.shape[:1]:
        raise ValueError(f"mos has shape {mos.shape} for images {images.shape}; expected one label per image")
    if isinstance(low, int | float) and isinstance(high, int | float) and not low < high:
        raise ValueError(f"low={low!r}, high={high!r} is not allowed; expected low < high")
    distance = trained("distance", distance)
    if isinstance(penalty, int | float):
        check_number("penalty", penalty, 0.0)
    attacked_fn = deviation(score_fn, mos, gather) if target == "loss" else score_fn
    if target == "either":
        signs = jax.vmap(lambda key: jax.random.rademacher(jax.random.fold_in(key, 1), (), images.dtype))(
            image_keys(key, len(images))
        )
        attacked_fn = Partial(_signed, as_pytree(score_fn), signs)
    attacked = jax.lax.stop_gradient(attack(attacked_fn, images, key))
    _check_shape("attack", attacked, images.shape)
    if weakest < 1:
        shares = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 2), (1, 1, 1), minval=weakest))(
            image_keys(key, len(images))
        )
        attacked = images + shares * (attacked - images)
    far = distance(images, attacked)
    _check_shape("distance", far, mos.shape)
    labels = relabel(mos, far, low=low, high=high, penalty=penalty)
    if not clean:
        return attacked, labels
    return jnp.concatenate([attacked, images]), jnp.concatenate([labels, mos])


def norm_penalty(
    score_fn: ScoreFn,
    images: Images,
    *,
    step: Number = 0.01,
    weight: Number = 1.0,
    scale_free: bool = True,
    gather: Gather = _alone,
) -> Float[Array, ""]:
    """Norm-regularised training (NT): compute the penalty on the gradient norm of the metric,

        λ/2 · mean over images of ((f(x + h v) − f(x)) / (h s))²,    v = sign ∇f(x).

    This finite difference approaches λ/2 · ‖∇f(x)‖₁² / s² for small h. By Hölder's inequality, a small Linf attack of
    radius ε changes a score by at most ε ‖∇f‖₁. Gradients flow through both scores and through s, not through v.

    With ``scale_free``, s is the standard deviation of the batch's scores, so f and a·f + b have the same penalty.
    Without it, under losses that ignore the scale of the scores (norm-in-norm, PLCC), training makes the scores smaller
    instead of flatter, and the linear map to human scores undoes this.

    Args:
        score_fn: the metric, differentiable in its pixels.
        images: ``b h w c`` in [0, 1]; with ``scale_free`` at least two, over all devices.
        step: h, in [0, 1] pixel units, > 0. ``x + h v`` may lie outside [0, 1] by h.
        weight: λ, >= 0.
        scale_free: False: s = 1, as in the paper and its code.
        gather: see `deviation`.

    Returns:
        One number, differentiable in the leaves of ``score_fn``.

    Raises:
        ValueError: ``step`` or ``weight`` is out of range, or there is a single image with ``scale_free``.

    >>> images = jax.random.uniform(jax.random.key(0), (8, 4, 4, 3))
    >>> price = lambda scale: norm_penalty(lambda x: scale * x[:, 0, 0, 0], images)
    >>> float(price(1.0).round(2)) == float(price(0.1).round(2))
    True

    Reference: Liu et al., "Defense Against Adversarial Attacks on No-Reference Image Quality Models with Gradient Norm
    Regularization", arXiv:2403.11397 (h = 0.01 after ImageNet normalisation, about 0.6 / 255 here; λ = 1e-3 with an L1
    loss on scores of 0 to 100).

    **Differs from the paper**: the scale s, and pixel units for h.
    """
    check_number("step", step, 0.0, open_low=True)
    check_number("weight", weight, 0.0)
    score_fn = as_pytree(score_fn)
    still = jax.lax.stop_gradient(score_fn)  # without it, an unused derivative of the gradient would be traced
    direction = jnp.sign(jax.grad(lambda x: still(x).sum())(images))
    both = jnp.concatenate([images, images + step * jax.lax.stop_gradient(direction)])
    scores, moved = jnp.split(checked_scores(score_fn, both), 2)
    scores, slopes = gather(scores), gather((moved - scores) / step)
    if scale_free and len(scores) < 2:
        raise ValueError("images has one image; scale_free=True needs at least two, for the deviation of the scores")
    variance = jnp.maximum(jnp.var(scores), 1e-12) if scale_free else 1.0  # > 0 even if all scores are equal
    return weight / 2 * jnp.mean(slopes**2) / variance


def _signed(score_fn: ScoreFn, signs: Scores, images: Images) -> Scores:
    return signs * score_fn(images)


def _deviation(gather: Gather, score_fn: ScoreFn, mos: Scores, images: Images) -> Scores:
    scores = score_fn(images)

    def normalise(x: Array) -> Array:
        everyone = gather(x)
        mean = everyone.mean()
        # The tiny constant keeps the gradient of the root finite if all scores are equal.
        return (x - mean) / (jnp.sqrt(jnp.sum((everyone - mean) ** 2) + 1e-30) + 1e-8)

    return jnp.abs(normalise(scores) - normalise(mos))


def _check_shape(name: str, returned: Array, expected: tuple[int, ...]) -> None:
    if returned.shape != expected:
        raise ValueError(f"{name} returned shape {returned.shape}; expected {expected}")
