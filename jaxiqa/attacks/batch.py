"""What lies between a batch and the one image that an attack is written for: keys, gradients, checks."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.arguments import as_pytree, beside, check_pictures, is_traced
from jaxiqa.attacks.loop import iterate
from jaxiqa.attacks.objective import MoveTo, Push, check_objective
from jaxiqa.types import Images, ScoreFn, Scores


def checked_scores(score_fn: Callable[..., Any], images: Images) -> Scores:
    """``score_fn(images)``, refused by name unless it is one score per image.

    >>> checked_scores(lambda x: x.mean(), jnp.zeros((2, 4, 4, 3)))
    Traceback (most recent call last):
    ValueError: score_fn returned shape () for 2 images; expected (2,), one score per image
    """
    try:
        scores = score_fn(images)
    except (TypeError, AttributeError) as error:
        untraceable = isinstance(error, jax.errors.JAXTypeError) or "Tracer" in str(error)
        if not (is_traced(images) and untraceable):
            raise
        raise TypeError(
            "score_fn cannot be traced by JAX, so it has no gradient. If it is NumPy or PyTorch, wrap it, "
            "jaxiqa.attacks.from_callable(score_fn), and attack it with NES, Square, Parsimonious, OnePixel or PatchRS"
        ) from error
    if np.shape(scores) != images.shape[:1]:
        expected = f"({len(images)},), one score per image"
        raise ValueError(f"score_fn returned shape {np.shape(scores)} for {len(images)} images; expected {expected}")
    return jnp.asarray(scores)


def per_image_gradient(
    objective: Callable[..., Any], variables: Float[Array, " b *shape"]
) -> Float[Array, " b *shape"]:
    """The gradient of each image's objective by its own variables.

    The gradient of the sum, which is the same thing as long as images are scored independently. The metric sees
    the batch as it does when it scores; ``vmap(grad(one image))`` is as fast (8 images 96x96, three convolutions,
    2 CPU cores: 26 against 28 ms) with equal values, but asks every score function, callbacks and sharded ones
    included, for a batching rule.

    Where the objective or its gradient is not finite, the image's whole gradient is NaN: the attacked image is then
    NaN, which `check_attacked` reports, instead of a picture that merely failed to move.

    Args:
        objective: ``b *shape -> b``.
        variables: what is differentiated by, ``b *shape``.

    Returns:
        The gradients, ``b *shape``.

    >>> per_image_gradient(lambda x: (x**2).sum(1), jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]))
    Array([[ 2.,  4.],
           [nan, nan]], dtype=float32)
    """

    return values_and_gradients(objective, variables)[1]


def values_and_gradients(
    objective: Callable[..., Any], variables: Float[Array, " b *shape"]
) -> tuple[Scores, Float[Array, " b *shape"]]:
    """Each image's objective beside its gradient, NaN as in `per_image_gradient`.

    >>> values, gradients = values_and_gradients(lambda x: (x**2).sum(1), jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]))
    >>> values.tolist(), gradients.tolist()
    ([5.0, nan], [[2.0, 4.0], [nan, nan]])
    """

    def total(variables):
        values = objective(variables)
        return values.sum(), values

    (_, values), gradients = jax.value_and_grad(total, has_aux=True)(variables)
    finite = jnp.isfinite(gradients).reshape(len(gradients), -1).all(1) & jnp.isfinite(values)
    wide = finite.reshape(-1, *[1] * (gradients.ndim - 1))
    return jnp.where(finite, values, jnp.nan), jnp.where(wide, gradients, jnp.nan)


def check_attacked(attacked: Float[Array, "*e b h w c"]) -> None:
    """Raise ``ValueError`` if an attacked image is not finite, unless its values are traced.

    >>> check_attacked(jnp.full((1, 4, 4, 3), jnp.nan))
    Traceback (most recent call last):
    ValueError: score_fn gave non-finite scores or gradients during the attack on images 0 of 1
    """
    if is_traced(attacked):
        return
    failed = ~np.asarray(jnp.isfinite(attacked).all((-3, -2, -1)))
    if failed.any():
        failed = failed.reshape(-1, failed.shape[-1]).any(0)  # over the ε of a sweep
        names = ", ".join(map(str, np.flatnonzero(failed)))
        raise ValueError(
            f"score_fn gave non-finite scores or gradients during the attack on images {names} of {failed.size}"
        )


def check_complete(attack: Any) -> None:
    """Raise ``ValueError`` if an option of the attack is None and its default is not.

    The attack is checked when it is called, not when it is made: a pytree of None is how JAX's axes are written.

    >>> from dataclasses import make_dataclass
    >>> check_complete(make_dataclass("Mine", ["epsilon"])(None))
    Traceback (most recent call last):
    ValueError: epsilon=None is not a number; give the attack one, such as epsilon=8 / 255
    """
    for option in fields(attack):
        if getattr(attack, option.name) is None and option.default is not None:
            raise ValueError(f"{option.name}=None is not a number; give the attack one, such as epsilon=8 / 255")


def begin(
    attack: Any, score_fn: ScoreFn | None, images: Images, key: Any, *, minimum: int = 1
) -> tuple[Any, Any, Images, Any]:
    """What an attack works with: itself, the score function, the images and the key, checked, and on the same devices.

    Images in half precision are widened to float32, in which ε is met; `finish` brings them back.

    Raises:
        ValueError: bad images, an objective for another number of them, or an attack that `check_complete` refuses.
    """
    check_pictures(images, minimum=minimum)
    check_complete(attack)
    if hasattr(attack, "objective"):
        check_objective(attack.objective, len(images))
    images = jnp.asarray(images)
    function = None if score_fn is None else as_pytree(score_fn)
    attack, score_fn, key = beside(images, (attack, function, key))
    return attack, score_fn, images.astype(jnp.promote_types(images.dtype, jnp.float32)), key


def towards(attack: Any, score_fn: ScoreFn, images: Images) -> Any:
    """The attack by gradient with `MoveTo` as a push to that side, from which `nearest_on_line` comes back.

    The gradient of the distance itself turns round at every step that passes the target, and the last image lies
    anywhere on either side.
    """
    if not isinstance(attack.objective, MoveTo):
        return attack
    check_pictures(images)
    check_objective(attack.objective, len(images))
    images = jnp.asarray(images)
    score_fn, target = beside(images, (as_pytree(score_fn), attack.objective.target))
    return replace(attack, objective=Push(_side(score_fn, images, target)))


@jax.jit
def _side(score_fn, images, target):
    return jnp.where(checked_scores(score_fn, images) < target, 1.0, -1.0)


def finish(attacked: Float[Array, "*e b h w c"], given: Images) -> Float[Array, "*e b h w c"]:
    """The answer in the type of the images that were given, after `check_attacked`."""
    check_attacked(attacked)
    given = jnp.asarray(given)
    return attacked if attacked.dtype == given.dtype else _narrowed(attacked, given)


@jax.jit
def _narrowed(attacked, given):
    """Rounded towards the clean image, so that no change grows: ε holds in either norm."""
    rounded = attacked.astype(given.dtype)
    wide = jnp.promote_types(attacked.dtype, given.dtype)
    too_far = jnp.abs(rounded.astype(wide) - given.astype(wide)) > jnp.abs(attacked.astype(wide) - given.astype(wide))
    back = jnp.nextafter(rounded, jnp.broadcast_to(given, rounded.shape))
    return jnp.where(jnp.isnan(attacked), jnp.nan, jnp.where(too_far, back, rounded)).astype(given.dtype)


_HALVINGS = 12


def nearest_on_line(objective: Any, score_fn: ScoreFn, images: Images, attacked: Images) -> Images:
    """For `MoveTo`: of images between the clean one and the attacked one, that whose score is nearest to the target.

    Found by 12 halvings of the part of the line on which the score passes the target, so that a step which overshot
    costs nothing. Any other objective, and an image that is not finite, is left alone. Balls and the box are convex,
    so the answer lies in the threat model.

    >>> from jaxiqa.attacks.objective import MoveTo
    >>> clean, far = jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3))
    >>> print(nearest_on_line(MoveTo(0.25), lambda x: x.mean((1, 2, 3)), clean, far).max().round(3))
    0.25
    """
    if not isinstance(objective, MoveTo):
        return attacked
    constants = (images, attacked, *beside(images, (as_pytree(score_fn), objective)))
    low, high = jnp.zeros(len(images), images.dtype), jnp.ones(len(images), images.dtype)
    clean, last = _at_share(low, *constants), _at_share(high, *constants)
    state = (low, high, *_better((low, clean), (high, last), objective))
    state = iterate(_halve, state, _HALVINGS, clean > objective.target, *constants)
    return _between(state[2], images, attacked)


@jax.jit
def _between(share, images, attacked):
    share = share[:, None, None, None]
    return jnp.where(share == 1, attacked, jnp.clip(images + share * (attacked - images), 0, 1))


@jax.jit
def _at_share(share, images, attacked, score_fn, objective):
    return checked_scores(score_fn, _between(share, images, attacked))


def _better(old, new, objective):
    # NaN is the better: it has to be reported.
    better = ~(objective.value(new[1]) <= objective.value(old[1]))
    return jnp.where(better, new[0], old[0]), jnp.where(better, new[1], old[1])


@jax.jit
def _halve(state, above, images, attacked, score_fn, objective):
    low, high, best, score = state
    middle = (low + high) / 2
    found = checked_scores(score_fn, _between(middle, images, attacked))
    same = (found > objective.target) == above
    better = _better((best, score), (middle, found), objective)
    best, score = (jnp.where(jnp.isnan(score), old, new) for old, new in zip((best, score), better, strict=True))
    return jnp.where(same, middle, low), jnp.where(same, high, middle), best, score
