"""What a black-box attack is made of, and what it returns."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jaxtyping import Array, Int

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.core.types import Images, Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QueryResult:
    """What a black-box attack found.

    Args:
        images: the attacked images, ``b h w c``.
        scores: their scores, in the metric's own units.
        queries: how many images the metric was asked about for the sake of each one, the clean image included.
    """

    images: Images
    scores: Scores
    queries: Int[Array, " b"]


class Searcher(Protocol):
    """A black-box attack on one image, as pure functions; `jaxiqa.attacks.engine.queries.run_queries` vmaps them.

    In every iteration the attack names ``candidates`` moves; each is rendered as an image and scored. A move is a
    pytree that is as small as it can be (a block's number, a few pixels), because only some are images at a time.

    Fields:
        candidates: moves per iteration.
        iterations: how many iterations the budget allows.
        probes: False: every rendered move is an allowed image, and the best one seen, the clean image included, is the
            answer. True: moves only probe around ``state.image``, which is the answer; the mean score of the probes
            stands for its score, and it is scored itself at the end.
        objective: what is wanted of the scores.
        batch_size: images that the metric sees at once, at most.
    """

    candidates: int
    iterations: int
    estimates_gradient: bool
    objective: Objective
    batch_size: int

    def start(self, clean: Any, value: Any, key: Any) -> Any:
        """The state before the first iteration, from the clean image ``h w c`` and its objective value."""

    def propose(self, state: Any, clean: Any, key: Any, iteration: Any) -> Any:
        """The moves: a pytree whose leaves have ``candidates`` as their first axis."""

    def render(self, state: Any, clean: Any, move: Any) -> Any:
        """The image, ``h w c``, that one move leads to."""

    def accept(self, state: Any, clean: Any, moves: Any, values: Any, iteration: Any) -> Any:
        """The next state, from the moves' objective values (the higher the better)."""
