"""One attack at many strengths."""

import dataclasses
import logging
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.attacks.engine.attack import Attack, strength_of
from jaxiqa.attacks.engine.gradients import check_attacked
from jaxiqa.attacks.wrappers.per_image import OneByOne
from jaxiqa.attacks.wrappers.pixel_range import InBounds
from jaxiqa.core.checks import check_number
from jaxiqa.core.devices import fitting_chunk
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import as_pytree, beside, is_traced
from jaxiqa.core.types import Images, ScoreFn

_log = logging.getLogger(__name__)


def checked_strengths(attack: Any, strengths: Any) -> Any:
    """Check each strength in the attack's field and return all as numbers; return traced ones unchanged.

    Raises:
        ValueError: a strength is not a number, or the attack does not accept it; the message gives its place.

    >>> from jaxiqa.attacks.fgsm import FGSM
    >>> checked_strengths(FGSM(0.1), [2 / 255, 8])
    Traceback (most recent call last):
    ValueError: strengths[1]: epsilon=8 is outside [0.0, 1.0]
    """
    if is_traced(strengths):
        return strengths
    if isinstance(strengths, str | bytes) or getattr(strengths, "ndim", 1) != 1:
        raise ValueError(f"strengths={strengths!r} is not allowed; expected a list of numbers")
    name, found = strength_of(attack), []
    for place, given in enumerate(strengths):
        value = given.item() if hasattr(given, "item") and np.ndim(given) == 0 else given
        try:
            if np.ndim(value):
                raise ValueError(f"{name}={value!r} is not one number")
            check_number(name, value, -float("inf"))
            replace(attack, **{name: value})
        except ValueError as error:
            raise ValueError(f"strengths[{place}]: {error}") from error
        found.append(value)
    return found


def sweep(
    attack: Any,
    score_fn: ScoreFn,
    images: Images,
    key: Keys,
    strengths: Any,
    *,
    chunk: int | None = None,
) -> Float[Array, "e b h w c"]:
    """Run ``attack`` at every strength, from the same clean images and keys; compile it once for all strengths.

    What does not depend on the strength is computed once: the gradient at the clean images (the only gradient of
    FGSM), and, if I-FGSM or PGD has a fixed step size, every step that cannot leave the smaller ball.
    On accelerators the strengths are one more vmapped axis, ``chunk`` strengths at a time; memory grows with
    ``chunk``. On a CPU they run one after another through one compiled step, which is as fast there and needs no more
    memory. An attack whose strength decides a shape, such as a number of pixels, runs so on every device.

    Args:
        attack: a dataclass; the field that `strength_of` names is replaced, its other fields are kept.
        score_fn, images, key: see `jaxiqa.attacks.pgd.PGD`.
        strengths: values of that field, in its unit.
        chunk: strengths at a time on accelerators; by default as many as fit into memory, which is logged.

    Returns:
        The attacked images, one batch per strength.

    Raises:
        ValueError: ``strengths`` is empty, or the attack does not accept one; the message gives its place.

    >>> from jaxiqa.attacks.fgsm import FGSM
    >>> images = jnp.full((1, 2, 3, 3), 0.5)
    >>> attacked = sweep(FGSM(0.0), lambda x: x.mean((1, 2, 3)), images, jax.random.key(0), [0.125, 0.25])
    >>> attacked[:, 0, 0, 0, 0].tolist()
    [0.625, 0.75]
    """
    if isinstance(attack, InBounds):
        return attack.through(lambda f, x: sweep(attack.attack, f, x, key, strengths, chunk=chunk), score_fn, images)
    if isinstance(attack, OneByOne):
        each = lambda one, f, x, keys: sweep(one, f, x, keys, strengths, chunk=chunk)  # noqa: E731
        return attack.through(each, score_fn, images, key, axis=1)
    check_unit_images(images)
    name = strength_of(attack)
    if not len(strengths):
        raise ValueError(f"strengths is empty; expected at least one {name}")
    strengths = checked_strengths(attack, strengths)
    static = next(field for field in dataclasses.fields(attack) if field.name == name).metadata.get("static")
    attack, score_fn, key = beside(images, (attack, as_pytree(score_fn), key))
    one_by_one = static or jax.default_backend() == "cpu"
    values = strengths if static else jnp.asarray(strengths, jnp.promote_types(images.dtype, jnp.float32))
    prefixes: list[dict[str, Any]] = [{}] * len(values)
    if isinstance(attack, Attack) and not is_traced(values):
        # Vmapped runs all start at the same step: the last one that the weakest run shares.
        common = attack.shared_prefixes(
            score_fn, images, [float(v) for v in (values if one_by_one else [values.min()])]
        )
        prefixes = prefixes if common is None else [{"prefix": prefix} for prefix in common]
    if one_by_one:
        runs = zip(values, prefixes, strict=True)
        return jnp.stack([replace(attack, **{name: value})(score_fn, images, key, **prefix) for value, prefix in runs])
    if chunk is None:
        chunk = fitting_chunk(score_fn, images, len(values))
        _log.info("%s: %d of %d strengths at a time", type(attack).__name__, chunk, len(values))
    parts = [values[first : first + chunk] for first in range(0, len(values), chunk)]
    attacked = jnp.concatenate([_vmapped(attack, score_fn, images, key, prefixes[0], part) for part in parts])
    check_attacked(attacked)
    return attacked


@jax.jit
def _vmapped(attack, score_fn, images, key, prefix, strengths):
    name = strength_of(attack)
    return jax.vmap(lambda value: replace(attack, **{name: value})(score_fn, images, key, **prefix))(strengths)
