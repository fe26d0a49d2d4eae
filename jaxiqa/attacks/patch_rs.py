"""Patch-RS: one small patch of pure colours, its pattern and place found by random search."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxiqa.arguments import Keys
from jaxiqa.attacks.objective import Objective, as_objective
from jaxiqa.attacks.queries import run_queries
from jaxiqa.attacks.schedule import phase, phase_starts
from jaxiqa.attacks.searcher import QueryResult
from jaxiqa.attacks.threat import Number
from jaxiqa.checks import check_choice, check_count, check_images, check_number
from jaxiqa.types import Images, ScoreFn

_SQUARES = 1000  # of random colour, that make the first patch
_PERIOD = 4  # every fourth iteration moves the patch


class Patch(NamedTuple):
    colours: Any  # side side c, each 0 or 1
    corner: Any  # row and column in the image


class State(NamedTuple):
    patch: Patch
    value: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PatchRS:
    """Sparse-RS for patches: a square of at most ``area`` pixels takes values 0 and 1; a change is kept if it gains.

    Every fourth iteration moves the patch by up to ``0.75 (1 − t/T)`` of the image's height and width. The others add
    ±1 per channel, clipped, to a window of ``⌊√p · side⌋`` pixels of the patch, with ``p`` halved nine times from
    ``share`` on (`schedule.phase`). Once that is one pixel, it takes another colour, and in the second half of that
    phase another value in one channel.

    Args:
        area: pixels of the patch, >= 1; its side is ``⌊√area⌋``, which the images' sides must not fall short of. The
            attack's strength.
        queries: scores asked per image at most, >= 2, the clean image's among them.
        share: ``p`` at the start, in (0, 1]; None is 0.4, or 0.8 in the benchmark's variant.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.objective`.
        batch_size: images attacked, and seen by the metric, at once, at most.
        variant: ``"paper"``, or ``"benchmark"``, which differs by its ``share`` alone.

    Calling it takes and returns what `jaxiqa.attacks.pgd.PGD` does; `run` returns scores and query counts too. Where no
    patch tried is better than none, the clean image is returned.

    Raises:
        ValueError: an option or the images are outside what is stated here, or ``score_fn`` gave a score that is
            not finite.

    >>> images = jnp.full((1, 6, 9, 3), 0.5)
    >>> result = PatchRS(9, queries=100).run(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(result.scores[0] > 0.55), int((result.images != images).any(-1).sum()), result.queries.tolist()
    (True, 9, [100])

    Reference: Croce et al., "Sparse-RS", arXiv 2006.12834.

    **Differs from the paper**: the score takes the place of a classification margin; moves never are shorter than up to
    one pixel, so that late ones are not spent on the same place; images need not be square.
    """

    area: int = field(default=400, metadata={"static": True})
    _: KW_ONLY
    queries: int = field(default=10_000, metadata={"static": True})
    share: Number | None = None
    objective: Objective | str = "raise"
    batch_size: int = field(default=32, metadata={"static": True})
    variant: str = field(default="paper", metadata={"static": True})

    strength: ClassVar[str] = "area"
    probes: ClassVar[bool] = False
    candidates: ClassVar[int] = 1

    def __post_init__(self):
        check_count("area", self.area, 1)
        check_count("queries", self.queries, 2)  # the clean image is one
        check_count("batch_size", self.batch_size, 1)
        check_choice("variant", self.variant, ("paper", "benchmark"))
        object.__setattr__(self, "objective", as_objective(self.objective))
        check_number("share", self.share, 0.0, 1.0, open_low=True)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        return self.run(score_fn, images, key).images

    def run(
        self, score_fn: ScoreFn, images: Images, key: Keys, progress: Callable[[int, int], Any] | None = None
    ) -> QueryResult:
        """The attacked images with their scores and query counts; ``progress(done, total)`` hears how far it is."""
        check_images("images", images, minimum=self.side)
        return run_queries(self, score_fn, images, key, progress)

    @property
    def side(self) -> int:
        return math.isqrt(self.area)

    @property
    def iterations(self) -> int:
        return self.queries - 1

    def start(self, clean, value, key):
        corner, squares = jax.random.split(key)
        h, w, c = clean.shape
        corner = jax.random.randint(corner, (2,), 0, jnp.array([h, w]) - self.side + 1)
        return State(Patch(_first(squares, self.side, c, clean.dtype), corner), jnp.full_like(value, -jnp.inf))

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
        return patch._replace(corner=jnp.clip(corner, 0, size - self.side))

    def _repainted(self, patch, key, iteration):
        place, paint, other, one = jax.random.split(key, 4)
        channels = patch.colours.shape[2]
        share = {"paper": 0.4, "benchmark": 0.8}[self.variant] if self.share is None else self.share
        sides = jnp.maximum(jnp.sqrt(share / 2.0 ** jnp.arange(10)) * self.side, 1).astype(int)
        starts = jnp.append(0, phase_starts(self.iterations))
        side = sides[phase(iteration, self.iterations)]
        top, left = jax.random.randint(place, (2,), 0, self.side - side + 1)
        inside = _square(self.side, top, left, side)
        added = jnp.clip(patch.colours + jax.random.rademacher(paint, (channels,), patch.colours.dtype), 0, 1)
        # One pixel: any other colour (some channels flipped), later one that differs in a single channel.
        others = jax.random.randint(other, (), 1, 2**channels) >> jnp.arange(channels) & 1
        single = jnp.arange(channels) == jax.random.randint(one, (), 0, channels)
        begin = jnp.min(jnp.where(sides == 1, starts, self.iterations))
        flips = jnp.where(iteration >= (begin + self.iterations) // 2, single, others == 1)
        flipped = jnp.where(flips, 1 - patch.colours, patch.colours)
        return patch._replace(colours=jnp.where(inside, jnp.where(side == 1, flipped, added), patch.colours))


def _first(key, side, channels, dtype):
    """Random squares of random pure colours, one over the other."""
    widest = max(2, math.ceil(math.sqrt(side)))

    def paint(number, colours):
        width, place, colour = jax.random.split(jax.random.fold_in(key, number), 3)
        width = jax.random.randint(width, (), 1, widest)
        top, left = jax.random.randint(place, (2,), 0, side - width + 1)
        colour = jax.random.bernoulli(colour, shape=(channels,)).astype(colours.dtype)
        return jnp.where(_square(side, top, left, width), colour, colours)

    return jax.lax.fori_loop(0, _SQUARES, paint, jnp.zeros((side, side, channels), dtype))


def _square(size, top, left, side):
    """Where in a ``size × size`` patch a square lies; ``size size 1``."""
    rows, columns = jnp.arange(size)[:, None] - top, jnp.arange(size)[None] - left
    return ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side))[..., None]
