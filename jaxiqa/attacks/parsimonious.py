"""Parsimonious: ±ε per block, chosen by a local search that trusts stale gains as upper bounds."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.arguments import Keys
from jaxiqa.attacks.objective import Objective, as_objective
from jaxiqa.attacks.queries import run_queries
from jaxiqa.attacks.searcher import QueryResult
from jaxiqa.attacks.threat import Ball, Number
from jaxiqa.checks import check_choice, check_count, check_number
from jaxiqa.types import Images, ScoreFn

_CANVAS = 256  # side of the benchmark's pattern, which is stretched over the image
_SET = 64  # blocks that are searched together


class State(NamedTuple):
    """One image's search; the arrays of 64 belong to the blocks of the current set."""

    plus: Any  # where the pattern is +ε, h w c
    order: Any  # the blocks' numbers in random order, one size after the other
    number: Any  # of the current set
    removing: Any  # + turns to − (the set's second half) instead of − to +
    value: Any  # objective of the pattern
    running: Any  # what gains are measured from
    bounds: Any  # gain of flipping a block when it was last asked; inf: never; −inf: not, or no more, to be flipped
    fresh: Any  # whether that was asked of the present pattern
    seen: Any  # the objective value that was then found
    taken: Any  # whether a flip was accepted in this half


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parsimonious:
    """Parsimonious: the best pattern of ±ε per block and channel, from −ε everywhere, by lazy greedy local search.

    Blocks of one size are taken in random sets of 64. In each set, blocks are first turned to +ε, the one with the
    largest gain first, until none gains; then blocks are turned back to −ε in the same way. Gains shrink as the set
    grows (the objective is nearly submodular), so an old gain bounds the present one: only the block with the largest
    bound is asked again, and taken if it still leads. After all sets the side of the blocks is halved, down to single
    pixels, which are gone over until the budget is used.

    Args:
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``.
        queries: scores asked per image at most, >= 2, the clean image's among them.
        block: side of the first blocks in pixels, a power of two; blocks at the border are cut off.
        candidates: blocks asked at once, 1 to 64: one is the paper's search; more ask for the gains in groups, which a
            device that holds few images does faster, for a few more queries.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.objective`.
        batch_size: images that the metric sees at once, at most.
        variant: ``"paper"``, or ``"benchmark"``: a 256×256 pattern is stretched over the image by nearest neighbours;
            the first flip of each half is taken though it loses; and an accepted gain is subtracted from the score
            that the following gains of its set are measured from, where it should be added.

    Calling it takes and returns what `jaxiqa.attacks.pgd.PGD` does; `run` returns scores and query counts too. The
    image is the best one seen, so its score is never worse than the clean one.

    Raises:
        ValueError: an option or the images are outside what is stated here, or ``score_fn`` gave a score that is
            not finite.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> weight = jnp.arange(12.0).reshape(2, 2, 3) - 5.5
    >>> attack = Parsimonious(0.125, queries=60, block=2)
    >>> attacked = attack(lambda x: (x * weight).sum((1, 2, 3)), images, jax.random.key(0))
    >>> bool((attacked == images + 0.125 * jnp.sign(weight)).all())
    True

    Reference: Moon, An and Song, arXiv 1905.06635.

    **Differs from the paper**: the score takes the place of a classification loss; a flip is taken only if it does not
    lose; what is known of the present pattern, its score and gains, is not asked again; blocks cover images of any
    height and width.
    """

    epsilon: Number
    _: KW_ONLY
    queries: int = field(default=10_000, metadata={"static": True})
    block: int = field(default=32, metadata={"static": True})
    candidates: int = field(default=1, metadata={"static": True})
    objective: Objective | str = "raise"
    batch_size: int = field(default=32, metadata={"static": True})
    variant: str = field(default="paper", metadata={"static": True})

    strength: ClassVar[str] = "epsilon"
    probes: ClassVar[bool] = False

    def __post_init__(self):
        Ball(self.epsilon)  # checks it
        check_count("queries", self.queries, 2)  # the clean image is one
        check_choice("block", self.block, [2**i for i in range(9)])
        check_number("candidates", self.candidates, 1, min(_SET, self.queries - 1))
        check_count("batch_size", self.batch_size, 1)
        check_choice("variant", self.variant, ("paper", "benchmark"))
        object.__setattr__(self, "objective", as_objective(self.objective))

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        return self.run(score_fn, images, key).images

    def run(
        self, score_fn: ScoreFn, images: Images, key: Keys, progress: Callable[[int, int], Any] | None = None
    ) -> QueryResult:
        """The attacked images with their scores and query counts; ``progress(done, total)`` hears how far it is."""
        return run_queries(self, score_fn, images, key, progress)

    @property
    def iterations(self) -> int:
        return (self.queries - 1) // self.candidates

    def start(self, clean, value, key):
        shape = self._pattern(clean.shape)
        parts = [
            jax.random.permutation(jax.random.fold_in(key, level), blocks)[:kept]
            for level, (_, blocks, kept) in enumerate(self._levels(shape))
        ]
        none, lowest = jnp.zeros(_SET, bool), jnp.full_like(value, -jnp.inf)
        bounds = jnp.full((_SET,), -jnp.inf, value.dtype)
        # "Before the first set", with nothing left to flip: the first iteration asks for the start itself.
        before, yes = jnp.array(-1), jnp.array(True)
        plus = jnp.zeros(shape, bool)
        return State(plus, jnp.concatenate(parts), before, yes, lowest, lowest, bounds, none, bounds, ~yes)

    def propose(self, state, clean, key, iteration):
        return _stale(state, self.candidates)[1]

    def render(self, state, clean, place):
        plus = jnp.where(state.number < 0, state.plus, state.plus ^ self._mask(state, place))
        h, w, _ = clean.shape
        rows, columns = (jnp.arange(n) * size // n for n, size in zip((h, w), plus.shape, strict=False))
        return jnp.clip(clean + jnp.where(plus[rows][:, columns], self.epsilon, -self.epsilon), 0, 1)

    def accept(self, state, clean, places, values, iteration):
        asked = _stale(state, self.candidates)[0] > -jnp.inf
        bounds, seen, fresh = (
            old.at[places].set(jnp.where(asked, new, old[places]))
            for old, new in ((state.bounds, values - state.running), (state.seen, values), (state.fresh, asked))
        )
        best = jnp.argmax(bounds)
        gain, leads = bounds[best], fresh[best] & (bounds[best] > -jnp.inf)
        take = leads & jnp.where(state.removing, gain > 0, gain >= 0)
        if self.variant == "benchmark":
            take |= leads & ~state.taken
        bounds = jnp.where(leads & ~take, -jnp.inf, jnp.where(take, bounds.at[best].set(-jnp.inf), bounds))
        value = jnp.where(iteration == 0, values[0], jnp.where(take, seen[best], state.value))
        running = jnp.where(take, state.running - gain, state.running) if self.variant == "benchmark" else value
        plus = jnp.where(take, state.plus ^ self._mask(state, best), state.plus)
        state = state._replace(plus=plus, value=value, running=running, taken=state.taken | take)
        return self._advance(state._replace(bounds=bounds, seen=seen, fresh=fresh & ~take))

    def _advance(self, state):
        """On to the next half, or the next set, until there is a block to ask about."""

        def advance(state):
            number = state.number + state.removing
            removing = ~state.removing
            state = state._replace(number=number, removing=removing, taken=jnp.zeros_like(state.taken))
            rows, columns, channels, _, valid = self._blocks(state)
            wanted = valid & (state.plus[rows, columns, channels] == removing)
            running = jnp.where(removing, state.running, state.value)
            bounds = jnp.where(wanted, jnp.inf, -jnp.inf).astype(state.bounds.dtype)
            return state._replace(running=running, bounds=bounds, fresh=jnp.zeros_like(state.fresh))

        return jax.lax.while_loop(lambda state: (state.bounds == -jnp.inf).all(), advance, state)

    def _pattern(self, shape):
        return shape if self.variant == "paper" else (_CANVAS, _CANVAS, shape[2])

    def _levels(self, shape):
        """For each size of blocks that the budget allows for: side, number of blocks, how many of them are used."""
        h, w, c = shape
        side, used = self.block, 0
        while side and used < self.iterations * self.candidates:
            blocks = -(-h // side) * -(-w // side) * c
            yield side, blocks, min(blocks, self.iterations * self.candidates)
            side, used = side // 2, used + blocks

    def _blocks(self, state):
        """Row, column and channel of the blocks of the current set, their side, and which of the 64 there are."""
        side, first, size = self._set(state.number, state.plus.shape)
        places = jnp.arange(_SET)
        number = state.order[jnp.minimum(first + places, len(state.order) - 1)]
        _, w, c = state.plus.shape
        across = (w + side - 1) // side
        return number // (across * c) * side, number // c % across * side, number % c, side, places < size

    def _set(self, number, shape):
        """Side of the blocks in a set, where in the order it begins, and its size; the last size of blocks recurs."""
        levels = list(self._levels(shape))
        sides, _, kept = (np.array(column) for column in zip(*levels, strict=True))
        sets = -(-kept // _SET)
        start = np.cumsum(sets) - sets  # number of each level's first set
        level = jnp.maximum((number >= start).sum() - 1, 0)
        within = jnp.maximum(number - jnp.asarray(start)[level], 0) % jnp.asarray(sets)[level]
        first = jnp.asarray(np.cumsum(kept) - kept)[level] + within * _SET
        return jnp.asarray(sides)[level], first, jnp.asarray(kept)[level] - within * _SET

    def _mask(self, state, place):
        """The values of the pattern that belong to a block."""
        rows, columns, channels, side, _ = self._blocks(state)
        h, w, c = state.plus.shape
        row, column = jnp.arange(h) // side == rows[place] // side, jnp.arange(w) // side == columns[place] // side
        return row[:, None, None] & column[None, :, None] & (jnp.arange(c) == channels[place])


def _stale(state, count):
    """The largest bounds of blocks to be asked (again), −inf where there are no more, and the blocks' places."""
    return jax.lax.top_k(jnp.where(state.fresh, -jnp.inf, state.bounds), count)
