"""Parsimonious: ±ε per block, found by a local search that uses old gains as upper bounds."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.query_attack import QueryAttack
from jaxiqa.attacks.engine.threat_model import Ball, Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.pytrees import static

_CANVAS = 256  # side of the benchmark's pattern, which is stretched over the image
_SET = 64  # blocks that are searched together


class State(NamedTuple):
    """The state of the search of one image; the arrays of length 64 are for the blocks of the current set."""

    plus: Any  # where the pattern is +ε, h w c
    order: Any  # the numbers of the blocks in random order, one block size after the other
    number: Any  # number of the current set
    removing: Any  # whether + turns to − (the set's second half) instead of − to +
    value: Any  # objective of the pattern
    running: Any  # objective value that gains are measured from
    bounds: Any  # last measured gain of flipping a block; inf: not measured yet; −inf: do not flip
    fresh: Any  # whether the gain was measured on the present pattern
    seen: Any  # the objective value at that measurement
    taken: Any  # whether a flip was accepted in this half


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parsimonious(QueryAttack):
    """Parsimonious: search a pattern of ±ε per block and channel, from −ε everywhere, by lazy greedy local search.

    Blocks of one size are searched in random sets of 64. In each set, blocks are first turned to +ε, largest gain
    first, until no block gains; then blocks are turned back to −ε in the same way. The objective is nearly submodular:
    gains shrink as more blocks are turned, so an old gain is an upper bound of the present gain. Only the block with
    the largest bound is scored again, and flipped if its gain is still the largest. After all sets, the side of the
    blocks is halved, down to single pixels, which are searched again and again until the budget is used.

    Args:
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``.
        queries: most scores computed per image, >= 2; the clean image's score counts.
        block: side of the first blocks in pixels, a power of two from 1 to 256; blocks at the border are cut off.
        candidates: blocks scored at once, 1 to 64. 1 is the paper's search. More score the blocks in groups, which is
            faster when few images are attacked together, and needs a few more queries.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        batch_size: most images that the metric scores at once.
        variant: ``"paper"``, or ``"benchmark"``: a 256×256 pattern is stretched over the image by nearest neighbours;
            the first flip of each half is accepted even if it loses; and an accepted gain is subtracted from the score
            that the next gains of its set are measured from, although it should be added.

    Call it as `jaxiqa.attacks.pgd.PGD`; `run` also returns scores and query counts. It
    returns the best image found, so the score is never worse than the clean one.

    Raises:
        ValueError: an option or the images are out of range, or ``score_fn`` returned a score that is not finite.

    >>> images = jnp.full((1, 2, 2, 3), 0.5)
    >>> weight = jnp.arange(12.0).reshape(2, 2, 3) - 5.5
    >>> attack = Parsimonious(0.125, queries=60, block=2)
    >>> attacked = attack(lambda x: (x * weight).sum((1, 2, 3)), images, jax.random.key(0))
    >>> bool((attacked == images + 0.125 * jnp.sign(weight)).all())
    True

    Reference: Moon, An and Song, "Parsimonious Black-Box Adversarial Attacks via Efficient Combinatorial Optimization",
    arXiv:1905.06635.

    **Differs from the paper**: the score replaces the classification loss; a flip is accepted only if it does not
    lose; known scores and gains of the present pattern are not computed again; blocks cover images of any height and
    width.
    """

    epsilon: Number
    _: KW_ONLY
    queries: int = static(10_000)
    block: int = static(32)
    candidates: int = static(1)
    objective: Objective | str = "raise"
    batch_size: int = static(32)
    variant: str = static("paper")

    def check(self):
        Ball(self.epsilon)  # checks it
        check_choice("block", self.block, [2**i for i in range(9)])
        check_number("candidates", self.candidates, 1, min(_SET, self.queries - 1))

    def start(self, clean, value, key):
        shape = self._pattern(clean.shape)
        parts = [
            jax.random.permutation(jax.random.fold_in(key, level), blocks)[:kept]
            for level, (_, blocks, kept) in enumerate(self._levels(shape))
        ]
        none, lowest = jnp.zeros(_SET, bool), jnp.full_like(value, -jnp.inf)
        bounds = jnp.full((_SET,), -jnp.inf, value.dtype)
        # Set −1 has no block to flip: the first iteration scores the start itself.
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
        """Go to the next half or set until there is a block to score."""

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
        """Yield, for each block size within the budget: side, number of blocks, number of blocks used."""
        h, w, c = shape
        side, used = self.block, 0
        while side and used < self.iterations * self.candidates:
            blocks = -(-h // side) * -(-w // side) * c
            yield side, blocks, min(blocks, self.iterations * self.candidates)
            side, used = side // 2, used + blocks

    def _blocks(self, state):
        """Return row, column and channel of the blocks of the current set, their side, and which of the 64 exist."""
        side, first, size = self._set(state.number, state.plus.shape)
        places = jnp.arange(_SET)
        number = state.order[jnp.minimum(first + places, len(state.order) - 1)]
        _, w, c = state.plus.shape
        across = (w + side - 1) // side
        return number // (across * c) * side, number // c % across * side, number % c, side, places < size

    def _set(self, number, shape):
        """Return the side of the blocks of a set, its first place in the order, its size; the last side repeats."""
        levels = list(self._levels(shape))
        sides, _, kept = (np.array(column) for column in zip(*levels, strict=True))
        sets = -(-kept // _SET)
        start = np.cumsum(sets) - sets  # number of each level's first set
        level = jnp.maximum((number >= start).sum() - 1, 0)
        within = jnp.maximum(number - jnp.asarray(start)[level], 0) % jnp.asarray(sets)[level]
        first = jnp.asarray(np.cumsum(kept) - kept)[level] + within * _SET
        return jnp.asarray(sides)[level], first, jnp.asarray(kept)[level] - within * _SET

    def _mask(self, state, place):
        """Mark the values of the pattern that belong to a block."""
        rows, columns, channels, side, _ = self._blocks(state)
        h, w, c = state.plus.shape
        row, column = jnp.arange(h) // side == rows[place] // side, jnp.arange(w) // side == columns[place] // side
        return row[:, None, None] & column[None, :, None] & (jnp.arange(c) == channels[place])


def _stale(state, count):
    """Return the largest bounds of blocks to score, −inf if there are no more, and the places of the blocks."""
    return jax.lax.top_k(jnp.where(state.fresh, -jnp.inf, state.bounds), count)
