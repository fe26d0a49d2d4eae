"""Patch-RS: add one small patch of pure colours; random search finds its pattern and position."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.query_attack import QueryAttack
from jaxiqa.attacks.engine.schedule import phase, phase_starts
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_count, check_number
from jaxiqa.core.pytrees import static

_SQUARES = 1000  # squares of random colour in the first patch
_PERIOD = 4  # every fourth iteration moves the patch


class Patch(NamedTuple):
    colours: Any  # side side c, each 0 or 1
    corner: Any  # row and column in the image


class State(NamedTuple):
    patch: Patch
    value: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchRS(QueryAttack):
    """Sparse-RS for patches: a square of at most ``area`` pixels has values 0 and 1; a change is kept if it gains.

    Every fourth iteration moves the patch by up to ``0.75 (1 − t/T)`` of the image's height and width. The others add
    ±1 per channel, clipped, to a square window of side ``⌊√p · side⌋`` in the patch; ``p`` starts at ``share`` and is
    halved nine times (`schedule.phase`). When the window is one pixel, the pixel gets another colour; in the second
    half of these iterations, another value in one channel.

    Args:
        area: pixels of the patch, >= 1; its side is ``⌊√area⌋``; images must not be smaller. The attack's strength.
        queries: most scores computed per image, >= 2; the clean image's score counts.
        share: ``p`` at the start, in (0, 1]; None is 0.4, or 0.8 in the benchmark's variant.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        batch_size: most images that are attacked, and scored by the metric, at once.
        variant: ``"paper"``, or ``"benchmark"``, which differs only in ``share``.

    Call it as `jaxiqa.attacks.pgd.PGD`; `run` also returns scores and query counts. If no
    patch is better than none, it returns the clean image.

    Raises:
        ValueError: an option or the images are out of range, or ``score_fn`` returned a score that is not finite.

    >>> images = jnp.full((1, 6, 9, 3), 0.5)
    >>> result = PatchRS(9, queries=100).run(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(result.scores[0] > 0.55), int((result.images != images).any(-1).sum()), result.queries.tolist()
    (True, 9, [100])

    Reference: Croce et al., "Sparse-RS: a versatile framework for query-efficient sparse black-box adversarial
    attacks", arXiv:2006.12834.

    **Differs from the paper**: the score replaces the classification margin; the largest shift of a move is at
    least one pixel, so that late moves are not wasted on the same position; images need not be square.
    """

    area: int = static(400)
    _: KW_ONLY
    queries: int = static(10_000)
    share: Number | None = None
    objective: Objective | str = "raise"
    batch_size: int = static(32)
    variant: str = static("paper")

    strength: ClassVar[str] = "area"

    def check(self):
        check_count("area", self.area, 1)
        check_number("share", self.share, 0.0, 1.0, open_low=True, or_none=True)

    @property
    def smallest(self) -> int:
        return math.isqrt(self.area)

    def start(self, clean, value, key):
        corner, squares = jax.random.split(key)
        h, w, c = clean.shape
        corner = jax.random.randint(corner, (2,), 0, jnp.array([h, w]) - self.smallest + 1)
        return State(Patch(_first(squares, self.smallest, c, clean.dtype), corner), jnp.full_like(value, -jnp.inf))

    def propose(self, state, clean, key, iteration):
        moved, repainted = self._moved(state.patch, clean, key, iteration), self._repainted(state.patch, key, iteration)
        move = (iteration % _PERIOD == 0) & (iteration > 0)
        patch = jax.tree.map(lambda x, y: jnp.where(move, x, y), moved, repainted)
        return jax.tree.map(lambda x, y: jnp.where(iteration == 0, x, y)[None], state.patch, patch)

    def render(self, state, clean, patch):
        return jax.lax.dynamic_update_slice(clean, patch.colours, (*patch.corner, 0))

    def accept(self, state, clean, patches, values, iteration):
        better = values[0] > state.value
        patch = jax.tree.map(lambda new, old: jnp.where(better, new[0], old), patches, state.patch)
        return State(patch, jnp.where(better, values[0], state.value))

    def _moved(self, patch, clean, key, iteration):
        size = jnp.array(clean.shape[:2])
        reach = jnp.maximum((0.75 * (1 - iteration / self.iterations) * size).astype(int), 1)
        corner = patch.corner + jax.random.randint(key, (2,), -reach, reach + 1)
        return patch._replace(corner=jnp.clip(corner, 0, size - self.smallest))

    def _repainted(self, patch, key, iteration):
        place, paint, other, one = jax.random.split(key, 4)
        channels = patch.colours.shape[2]
        share = {"paper": 0.4, "benchmark": 0.8}[self.variant] if self.share is None else self.share
        sides = jnp.maximum(jnp.sqrt(share / 2.0 ** jnp.arange(10)) * self.smallest, 1).astype(int)
        starts = jnp.append(0, phase_starts(self.iterations))
        side = sides[phase(iteration, self.iterations)]
        top, left = jax.random.randint(place, (2,), 0, self.smallest - side + 1)
        inside = _square(self.smallest, top, left, side)
        added = jnp.clip(patch.colours + jax.random.rademacher(paint, (channels,), patch.colours.dtype), 0, 1)
        # One pixel: any other colour (some channels flipped), later a colour that differs in one channel.
        others = jax.random.randint(other, (), 1, 2**channels) >> jnp.arange(channels) & 1
        single = jnp.arange(channels) == jax.random.randint(one, (), 0, channels)
        begin = jnp.min(jnp.where(sides == 1, starts, self.iterations))
        flips = jnp.where(iteration >= (begin + self.iterations) // 2, single, others == 1)
        flipped = jnp.where(flips, 1 - patch.colours, patch.colours)
        return patch._replace(colours=jnp.where(inside, jnp.where(side == 1, flipped, added), patch.colours))


def _first(key, side, channels, dtype):
    """Draw a patch of random squares of random pure colours, one over the other."""
    widest = max(2, math.ceil(math.sqrt(side)))

    def paint(number, colours):
        width, place, colour = jax.random.split(jax.random.fold_in(key, number), 3)
        width = jax.random.randint(width, (), 1, widest)
        top, left = jax.random.randint(place, (2,), 0, side - width + 1)
        colour = jax.random.bernoulli(colour, shape=(channels,)).astype(colours.dtype)
        return jnp.where(_square(side, top, left, width), colour, colours)

    return jax.lax.fori_loop(0, _SQUARES, paint, jnp.zeros((side, side, channels), dtype))


def _square(size, top, left, side):
    """Return the mask of a square in a ``size × size`` patch; ``size size 1``."""
    rows, columns = jnp.arange(size)[:, None] - top, jnp.arange(size)[None] - left
    return ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side))[..., None]
