"""Square Attack: random search over square windows."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.query_attack import QueryAttack
from jaxiqa.attacks.engine.schedule import phase
from jaxiqa.attacks.engine.threat_model import Ball, Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.pytrees import static

_CANVAS = 256  # the benchmark's windows lie in the top left 256×256 pixels
_START = {"linf": 0.05, "l2": 0.1}


class State(NamedTuple):
    image: Any
    value: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Square(QueryAttack):
    """Square Attack: change one square window at a random position in every iteration; keep the change if the
    objective grows. The window covers a share ``p`` of the image; ``p`` is halved nine times (`schedule.phase`).

    Linf: it starts from vertical stripes of ±ε; a window is set to ``clean ± ε``, one random sign per channel.
    L2: it starts from a grid of 5×5 bumps of random signs, scaled to norm ε. The perturbation of one window is removed;
    another window gets a bump with that norm and the part of ε that clipping left unused.

    Args:
        epsilon: radius. Linf: in [0, 1] pixel units, written ``8 / 255``; L2: Euclidean norm over the image.
        queries: most scores computed per image, >= 2; the clean image's and the start's count.
        share: ``p`` at the start, in (0, 1]; None is the paper's 0.05 for Linf and 0.1 for L2.
        norm: ``"linf"`` or ``"l2"``; L2 needs images of at least 3×3.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        batch_size: most images that are attacked, and scored by the metric, at once.
        variant: ``"paper"``, or ``"benchmark"`` (only Linf): starts from the clean image, without stripes, and puts
            windows only into the top left 256×256 pixels.

    Call it as `jaxiqa.attacks.pgd.PGD`; `run` also returns scores and query counts. It
    returns the best image found, so the score is never worse than the clean one.

    Raises:
        ValueError: an option or the images are out of range, or ``score_fn`` returned a score that is not finite.

    >>> images = jnp.full((1, 4, 6, 3), 0.5)
    >>> result = Square(8 / 255, queries=40).run(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(result.scores[0] > 0.51), result.queries.tolist()
    (True, [40])

    Reference: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search",
    arXiv:1912.00049.

    **Differs from the paper**: the score replaces the classification margin; images need not be square.
    """

    epsilon: Number
    _: KW_ONLY
    queries: int = static(10_000)
    share: Number | None = None
    norm: str = static("linf")
    objective: Objective | str = "raise"
    batch_size: int = static(32)
    variant: str = static("paper")

    def check(self):
        Ball(self.epsilon, norm=self.norm)  # checks both
        if self.norm == "l2":
            check_choice("variant", self.variant, ("paper",))
        check_number("share", self.share, 0.0, 1.0, open_low=True, or_none=True)

    @property
    def smallest(self) -> int:
        return 3 if self.norm == "l2" else 1

    def start(self, clean, value, key):
        # In the paper's variant the first iteration proposes the start, which is kept whatever its value.
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
    """Return row and column numbers of all pixels, counted from the corner of a random window in the canvas."""
    h, w, _ = shape
    top, left = jax.random.randint(key, (2,), 0, jnp.array(canvas) - side + 1)
    return jnp.arange(h)[:, None] - top, jnp.arange(w)[None] - left


def _within(rows, columns, side):
    return ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side))[..., None]


def _move(key, image, clean, epsilon, side, canvas):
    """Move the norm in two windows, and the unused part of ε, to a new bump in the first window."""
    places, others, signs, flip = jax.random.split(key, 4)
    widest = min(canvas) - 1 + min(canvas) % 2
    side = jnp.clip(side // 2 * 2 + 1, 3, widest)
    rows, columns = _place(places, clean.shape, side, canvas)
    further, beside = _place(others, clean.shape, side, canvas)
    here, there = _within(rows, columns, side), _within(further, beside, side)
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
    """Return two pyramids of opposite sign, one above the other, in a ``side × side`` window; norm 1; ``h w 1``.

    At distance d (the larger of rows and columns) from the middle of its half, a pyramid has the height
    Σ_{j=d..side//2} 1 / (j + 1)² before scaling. Outside the window all values are 0.
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
    """Return a grid of bumps, five along the shorter side, with random signs and orientations, of norm ε."""
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
