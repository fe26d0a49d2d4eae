"""Adversarial training: attacked copies beside the clean pictures, with labels of their own; and a price on slopes.

Both are given the metric as a score function and leave the optimisation to the caller.
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
from jaxiqa.core.pytrees import as_pytree, trained
from jaxiqa.core.types import AttackFn, Images, PRNGKey, ScoreFn, Scores
from jaxiqa.ops.ssim import ms_ssim, ssim

Distance = Callable[[Images, Images], Scores]
Gather = Callable[[Array], Array]
Number = int | float | Float[Array, ""]


def _alone(x: Array) -> Array:
    """Gather from one device: nothing to do."""
    return x


LABELS: dict[str, Distance] = {
    "unchanged": lambda clean, attacked: jnp.zeros(len(clean), clean.dtype),
    "minimum": lambda clean, attacked: jnp.ones(len(clean), clean.dtype),
    "ssim": lambda clean, attacked: 1 - ssim(clean, attacked),
    "ms_ssim": lambda clean, attacked: 1 - ms_ssim(clean, attacked),
}
"""How far an attacked picture is from the clean one, ``(clean, attacked) -> b``: what `relabel` lowers its label by.

"minimum" is 1 for every picture, so that the whole penalty gives the lowest label there is, and a penalty of 0.1
lowers all labels by a tenth of their range. LPIPS is given as a network, `jaxiqa.networks`.
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
"""The six set-ups of the benchmark (arXiv:2408.01541): two-step APGD from the clean image, two labels, three ε."""


def relabel(
    mos: Scores, distance: Float[Array, " b"], *, low: Number, high: Number, penalty: Number = 1.0
) -> Float[Array, " b"]:
    """The labels of attacked pictures: ``clip(mos − penalty · distance · (high − low), low, high)``.

    Args:
        mos: labels of the clean pictures, in any unit.
        distance: from the clean to the attacked picture: 0 for equal ones, about 1 where nothing is alike.
        low, high: lowest and highest label there is, in the unit of ``mos``.
        penalty: share of the range that a distance of 1 costs, >= 0.

    >>> relabel(jnp.array([90.0, 20.0]), jnp.array([0.25, 0.25]), low=4.0, high=88.0).tolist()
    [69.0, 4.0]

    Reference: Chistyakova et al., "Increasing the robustness of image quality assessment models through adversarial
    training", Technologies 12(11):220, 2024.
    """
    return jnp.clip(mos - penalty * distance * (high - low), low, high)


def deviation(score_fn: ScoreFn, mos: Scores, gather: Gather = _alone) -> ScoreFn:
    """How far each score is from its label, once both batches are centred and divided by their norm: ``|p̂ᵢ − ŷᵢ|``,

        x̂ = (x − mean x) / (‖x − mean x‖₂ + 1e-8),

    the summands of the norm-in-norm loss (arXiv:2008.03889). An attack that raises it makes the loss of the batch
    larger, whether that takes a higher score or a lower one. One picture alone has no deviation, and no gradient.

    Args:
        score_fn: the metric.
        mos: label of each picture that will be scored.
        gather: brings together the values of all devices, in a function that runs on several.

    Returns:
        A score function, as a pytree that jitted functions take as an argument.

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
    gather: Gather = _alone,
) -> tuple[Float[Array, "b2 h w c"], Float[Array, " b2"]]:
    """The batch a metric trains on: attacked copies, then the clean pictures, each with a label.

    Args:
        attack: what makes the copies; see `jaxiqa.attacks`.
        score_fn: the metric as it stands. Nothing is differentiated through the attack.
        images: ``b h w c`` in [0, 1].
        mos: their labels, in any unit.
        key: of the attack; one, or one per image.
        low, high, penalty: see `relabel`.
        distance: ``(clean, attacked) -> b``, see `LABELS`.
        target: what the attack raises: "loss", the `deviation` of scores from labels, or "score", the score itself
            (``objective="lower"`` of the attack lowers it).
        gather: see `deviation`.

    Returns:
        2b images and their 2b labels.

    Raises:
        ValueError: an unknown target, a negative penalty, or what ``attack`` and ``distance`` refuse.

    >>> attack = lambda score_fn, images, key: images + 0.1
    >>> images, mos = jnp.full((2, 12, 12, 3), 0.5), jnp.array([10.0, 90.0])
    >>> images, mos = adversarial_batch(
    ...     attack, lambda x: x.mean((1, 2, 3)), images, mos, jax.random.key(0), low=0.0, high=100.0
    ... )
    >>> [round(label, 1) for label in mos.tolist()]  # SSIM is 0.984
    [8.4, 88.4, 10.0, 90.0]

    Reference: as for `relabel`; the set-ups of arXiv:2408.01541 are `ADVERSARIAL_PRESETS`.

    **Differs from the benchmark's code**: unchanged labels train on the clean pictures too; a score function in
    inference-mode batch norm is what callers here give by default, where the benchmark attacked in training mode; APGD
    (`jaxiqa.attacks.APGD`) steps 2ε at first, as in its paper, where the benchmark stepped ε.
    """
    check_choice("target", target, ("loss", "score"))
    check_unit_images(images, channels=3)
    if mos.shape != images.shape[:1]:
        raise ValueError(f"mos has shape {mos.shape} for images {images.shape}; expected one label per image")
    if isinstance(low, int | float) and isinstance(high, int | float) and not low < high:
        raise ValueError(f"low={low!r}, high={high!r}; expected low < high")
    distance = trained("distance", distance)
    if isinstance(penalty, int | float):
        check_number("penalty", penalty, 0.0)
    attacked_fn = deviation(score_fn, mos, gather) if target == "loss" else score_fn
    attacked = jax.lax.stop_gradient(attack(attacked_fn, images, key))
    _check_shape("attack", attacked, images.shape)
    far = distance(images, attacked)
    _check_shape("distance", far, mos.shape)
    labels = relabel(mos, far, low=low, high=high, penalty=penalty)
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
    """Norm-regularised training (NT): what the steepness of the metric adds to the loss,

        λ/2 · mean over images of ((f(x + h v) − f(x)) / (h s))²,    v = sign ∇f(x),

    a finite difference that approaches λ/2 · ‖∇f(x)‖₁² / s² as h falls: by Hölder ε ‖∇f‖₁ is the most that a small Linf
    attack of radius ε can change a score by. Gradients flow through both scores and through s, not through v.

    With ``scale_free`` s is the standard deviation of the batch's scores, so that f and a·f + b cost the same. Losses
    that ignore the scale of the scores (norm-in-norm, PLCC) are otherwise met with smaller scores and not with flatter
    ones, which the linear map to human scores undoes.

    Args:
        score_fn: the metric, differentiable in its pixels.
        images: ``b h w c`` in [0, 1]; with ``scale_free`` at least two, over all devices.
        step: h, in [0, 1] pixel units, > 0. ``x + h v`` may leave [0, 1] by it.
        weight: λ, >= 0.
        scale_free: False takes s = 1, as the paper and its code do.
        gather: see `deviation`.

    Returns:
        One number; differentiable in whatever leaves ``score_fn`` has.

    Raises:
        ValueError: ``step`` or ``weight`` out of range, or a single image with ``scale_free``.

    >>> images = jax.random.uniform(jax.random.key(0), (8, 4, 4, 3))
    >>> price = lambda scale: norm_penalty(lambda x: scale * x[:, 0, 0, 0], images)
    >>> float(price(1.0).round(2)) == float(price(0.1).round(2))
    True

    Reference: Liu et al., "Defense against adversarial attacks on no-reference image quality models with gradient norm
    regularization", arXiv:2403.11397 (h = 0.01 after ImageNet normalisation, about 0.6 / 255 here; λ = 1e-3 beside an
    L1 loss on scores of 0 to 100).

    **Differs from the paper**: the scale s, and pixel units for h.
    """
    if isinstance(step, int | float):
        check_number("step", step, 0.0, open_low=True)
    if isinstance(weight, int | float):
        check_number("weight", weight, 0.0)
    score_fn = as_pytree(score_fn)
    still = jax.lax.stop_gradient(score_fn)  # or the gradient's own derivative would be traced, to be thrown away
    direction = jnp.sign(jax.grad(lambda x: still(x).sum())(images))
    scores, moved = jnp.split(score_fn(jnp.concatenate([images, images + step * jax.lax.stop_gradient(direction)])), 2)
    scores, slopes = gather(scores), gather((moved - scores) / step)
    if scale_free and len(scores) < 2:
        raise ValueError("images holds one image; scale_free needs at least two, to know the scale of scores")
    variance = jnp.maximum(jnp.var(scores), 1e-12) if scale_free else 1.0  # above 0 where all scores are equal
    return weight / 2 * jnp.mean(slopes**2) / variance


def _deviation(gather: Gather, score_fn: ScoreFn, mos: Scores, images: Images) -> Scores:
    scores = score_fn(images)

    def normalise(x: Array) -> Array:
        everyone = gather(x)
        mean = everyone.mean()
        # The tiny constant keeps the gradient of the root finite where all scores are equal.
        return (x - mean) / (jnp.sqrt(jnp.sum((everyone - mean) ** 2) + 1e-30) + 1e-8)

    return jnp.abs(normalise(scores) - normalise(mos))


def _check_shape(name: str, returned: Array, expected: tuple[int, ...]) -> None:
    if returned.shape != expected:
        raise ValueError(f"{name} returned shape {returned.shape}; expected {expected}")
