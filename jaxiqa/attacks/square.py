"""Square Attack: random search that repaints square windows."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.arguments import Keys
from jaxiqa.attacks.objective import Objective, as_objective
from jaxiqa.attacks.queries import run_queries
from jaxiqa.attacks.schedule import phase
from jaxiqa.attacks.searcher import QueryResult
from jaxiqa.attacks.threat import Ball, Number
from jaxiqa.checks import check_choice, check_count, check_images, check_number
from jaxiqa.types import Images, ScoreFn

_CANVAS = 256  # what the benchmark's windows are confined to
_START = {"linf": 0.05, "l2": 0.1}


class State(NamedTuple):
    image: Any
    value: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Square:
    """Square Attack: in every iteration one square window, at a random place, is changed; the change is kept if the
    objective grows. The window covers a share ``p`` of the image, halved nine times on the way (`schedule.phase`).

    Linf: starts from vertical stripes of ±ε; a window takes ``clean ± ε``, one random sign per channel.
    L2: starts from a grid of 5×5 bumps of random signs, scaled to norm ε; a window loses its perturbation, and another
    takes a bump with that norm and with what clipping has left of ε.

    Args:
        epsilon: radius. Linf: in [0, 1] pixel units, written ``8 / 255``; L2: Euclidean norm over the image.
        queries: scores asked per image at most, >= 2, the clean image's and the start's among them.
        share: ``p`` at the start, in (0, 1]; None is the paper's 0.05 for Linf and 0.1 for L2.
        norm: ``"linf"`` or ``"l2"``; L2 needs images of at least 3×3.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.objective`.
        batch_size: images attacked, and seen by the metric, at once, at most.
        variant: ``"paper"``, or ``"benchmark"`` (Linf alone): starts from the clean image, without stripes, and puts
            windows into the top left 256×256 pixels alone.

    Calling it takes and returns what `jaxiqa.attacks.pgd.PGD` does; `run` returns scores and query counts too. The
    image is the best one seen, so its score is never worse than the clean one.

    Raises:
        ValueError: an option or the images are outside what is stated here, or ``score_fn`` gave a score that is
            not finite.

    >>> images = jnp.full((1, 4, 6, 3), 0.5)
    >>> result = Square(8 / 255, queries=40).run(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(result.scores[0] > 0.51), result.queries.tolist()
    (True, [40])

    Reference: Andriushchenko et al., arXiv 1912.00049.

    **Differs from the paper**: the score takes the place of a classification margin; images need not be square.
    """

    epsilon: Number
    _: KW_ONLY
    queries: int = field(default=10_000, metadata={"static": True})
    share: Number | None = None
    norm: str = field(default="linf", metadata={"static": True})
    objective: Objective | str = "raise"
    batch_size: int = field(default=32, metadata={"static": True})
    variant: str = field(default="paper", metadata={"static": True})

    strength: ClassVar[str] = "epsilon"
    probes: ClassVar[bool] = False
    candidates: ClassVar[int] = 1

    def __post_init__(self):
        Ball(self.epsilon, norm=self.norm)  # checks both
        check_count("queries", self.queries, 2)  # the clean image is one
        check_count("batch_size", self.batch_size, 1)
        check_choice("variant", self.variant, ("paper", "benchmark") if self.norm == "linf" else ("paper",))
        object.__setattr__(self, "objective", as_objective(self.objective))
        check_number("share", self.share, 0.0, 1.0, open_low=True)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        return self.run(score_fn, images, key).images

    def run(
        self, score_fn: ScoreFn, images: Images, key: Keys, progress: Callable[[int, int], Any] | None = None
    ) -> QueryResult:
        """The attacked images with their scores and query counts; ``progress(done, total)`` hears how far it is."""
        check_images("images", images, minimum=3 if self.norm == "l2" else 1)
        return run_queries(self, score_fn, images, key, progress)

    @property
    def iterations(self) -> int:
        return self.queries - 1

    def start(self, clean, value, key):
        # The paper's start is what the first iteration proposes; it is kept whatever its value.
        return State(clean, value if self.variant == "benchmark" else jnp.full_like(value, -jnp.inf))

    def propose(self, state, clean, key, iteration):
        h, w, _ = clean.shape
        if self.variant == "benchmark":
            h, w = min(h, _CANVAS), min(w, _CANVAS)
        share = _START[self.norm] if self.share is None else self.share
        side = jnp.round(jnp.sqrt(share / 2.0 ** phase(iteration, self.iterations) * h * w)).astype(int)
        start, change = {"linf": (_stripes, _repaint), "l2": (_bumps, _move)}[self.norm]
        changed = change(key, state.image, clean, self.epsilon, side, (h, w))
        if self.variant == "paper":
            changed = jnp.where(iteration == 0, start(key, clean, self.epsilon), changed)
        return changed[None]

    def render(self, state, clean, image):
        return image

    def accept(self, state, clean, images, values, iteration):
        better = values[0] > state.value
        return State(jnp.where(better, images[0], state.image), jnp.where(better, values[0], state.value))


def _stripes(key, clean, epsilon):
    return jnp.clip(clean + epsilon * jax.random.rademacher(key, (1, *clean.shape[1:]), clean.dtype), 0, 1)


def _repaint(key, image, clean, epsilon, side, canvas):
    place, paint = jax.random.split(key)
    rows, columns = _place(place, clean.shape, jnp.clip(side, 1, min(canvas)), canvas)
    inside = _within(rows, columns, jnp.clip(side, 1, min(canvas)))
    colour = epsilon * jax.random.rademacher(paint, clean.shape[2:], clean.dtype)
    return jnp.clip(jnp.where(inside, clean + colour, image), 0, 1)


def _place(key, shape, side, canvas):
    """Row and column numbers of all pixels, counted from the corner of a random window in the canvas."""
    h, w, _ = shape
    top, left = jax.random.randint(key, (2,), 0, jnp.array(canvas) - side + 1)
    return jnp.arange(h)[:, None] - top, jnp.arange(w)[None] - left


def _within(rows, columns, side):
    return ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side))[..., None]


def _move(key, image, clean, epsilon, side, canvas):
    """The norm in two windows, and what is left of ε, go to a new bump in the first of them."""
    places, others, signs, flip = jax.random.split(key, 4)
    widest = min(canvas) - 1 + min(canvas) % 2
    side = jnp.clip(side // 2 * 2 + 1, 3, widest)
    rows, columns = _place(places, clean.shape, side, canvas)
    here, there = _within(rows, columns, side), _within(*_place(others, clean.shape, side, canvas), side)
    delta = image - clean
    unused = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0) / clean.shape[2]
    available = jnp.sqrt(_square_norm(delta * (here | there)) + unused)
    bump = jnp.where(jax.random.bernoulli(flip), _bump(columns, rows, side), _bump(rows, columns, side))
    old = delta * here
    bump = bump * jax.random.rademacher(signs, clean.shape[2:], clean.dtype)
    new = bump + old / (jnp.sqrt(_square_norm(old)) + 1e-10)
    new = new / (jnp.sqrt(_square_norm(new)) + 1e-10) * available
    return _scaled(clean, jnp.where(here, new, jnp.where(there, 0, delta)), epsilon)


def _square_norm(values):
    return jnp.sum(values**2, (0, 1))


def _scaled(clean, delta, epsilon):
    length = epsilon * (1 - 2e-7)  # so that rounding does not leave the ball
    return jnp.clip(clean + length * delta / jnp.maximum(jnp.linalg.norm(delta), 1e-10), 0, 1)


def _bump(rows, columns, side):
    """Two pyramids of opposite sign, one above the other, of norm 1 in a ``side × side`` window, 0 outside; ``h w 1``.

    At distance d (the larger of rows and columns) from the middle of its half, a pyramid is as high as
    Σ_{j=d..side//2} 1 / (j + 1)² (before scaling).
    """
    sums = jnp.asarray(np.append(0, np.cumsum(1 / np.arange(1.0, rows.size + columns.size + 2) ** 2)), jnp.float32)
    inside = _within(rows, columns, side)[..., 0]

    def pyramid(rows, height):
        distance = jnp.maximum(jnp.abs(rows - height // 2), jnp.abs(columns - side // 2))
        values = sums[side // 2 + 1] - sums[jnp.clip(distance, 0, side // 2 + 1)]
        values = jnp.where(inside & (rows >= 0) & (rows < height), values, 0)
        return values / jnp.maximum(jnp.linalg.norm(values), 1e-10)

    upper = side // 2
    both = pyramid(rows, upper) - pyramid(rows - upper, side - upper)
    return (both / jnp.linalg.norm(both))[..., None]


def _bumps(key, clean, epsilon):
    """A grid of bumps, five to the shorter side, with random signs and orientations, of norm ε."""
    h, w, c = clean.shape
    side = max(3, min(h, w) // 5)
    grid = (h // side, w // side)
    sign, flip = jax.random.split(key)
    bump = _bump(jnp.arange(side)[:, None], jnp.arange(side)[None], side)[..., 0]
    flips = jax.random.bernoulli(flip, shape=grid)
    bumps = jnp.where(flips[..., None, None], bump.T, bump)  # rows columns side side
    signs = jax.random.rademacher(sign, (*grid, c), clean.dtype)
    delta = signs[:, None, :, None] * bumps.transpose(0, 2, 1, 3)[..., None]
    delta = delta.reshape(grid[0] * side, grid[1] * side, c)
    return _scaled(clean, jnp.pad(delta, ((0, h - delta.shape[0]), (0, w - delta.shape[1]), (0, 0))), epsilon)
