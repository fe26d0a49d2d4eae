"""The base class of black-box attacks, which use only scores."""

from collections.abc import Callable
from typing import Any, ClassVar

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.objective import as_objective
from jaxiqa.attacks.engine.queries import QueryResult, run_queries
from jaxiqa.core.checks import check_choice, check_count
from jaxiqa.core.images import check_images
from jaxiqa.core.keys import Keys
from jaxiqa.core.types import Images, ScoreFn


class QueryAttack(Attack):
    """A black-box attack on one image as four pure functions; `run_queries` vmaps them over the batch.

    In every iteration the attack proposes ``candidates`` moves; each move is rendered as an image and scored. Keep a
    move small (the number of a block, a few pixels): only some moves are rendered at the same time. A subclass is a
    frozen dataclass with the fields ``objective``, ``batch_size`` and ``variant``, and, in most attacks, ``queries``.
    It defines `check`, `start`, `propose`, `render` and `accept`.

    Attributes:
        candidates: moves per iteration.
        iterations: how many iterations the budget allows; by default all queries after the clean image's.
        estimates_gradient: False: every rendered move is an allowed image, and the best one seen, the clean image
            included, is the answer. True: moves only probe around ``state.image``, which is the answer; the mean score
            of the moves stands for its score, and it is scored itself at the end.
        batch_size: images that the metric is given at once, at most.
        smallest: side that an image must have at least.
    """

    candidates: Any = 1
    estimates_gradient: ClassVar[bool] = False
    variants: ClassVar[tuple[str, ...]] = ("paper", "benchmark")
    batch_size: int
    variant: str
    queries: int

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size, 1)
        if hasattr(self, "variant"):
            check_choice("variant", self.variant, self.variants)
        if hasattr(self, "queries"):
            check_count("queries", self.queries, 2)  # the clean image counts
        object.__setattr__(self, "objective", as_objective(self.objective))
        self.check()

    def check(self) -> None:
        """Check the options of the subclass; raise ``ValueError`` if one is not allowed."""

    @property
    def iterations(self) -> int:
        return (self.queries - 1) // self.candidates

    @property
    def smallest(self) -> int:
        return 1

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        return self.run(score_fn, images, key).images

    def run(
        self, score_fn: ScoreFn, images: Images, key: Keys, progress: Callable[[int, int], Any] | None = None
    ) -> QueryResult:
        """Attack the images; ``progress(done, total)`` is called after every chunk of iterations.

        Returns:
            The attacked images with their scores and query counts.
        """
        check_images("images", images, minimum=self.smallest)
        return run_queries(self, score_fn, images, key, progress)

    def start(self, clean: Any, value: Any, key: Any) -> Any:
        """Return the state before the first iteration, from the clean image ``h w c`` and its objective value."""
        raise NotImplementedError

    def propose(self, state: Any, clean: Any, key: Any, iteration: Any) -> Any:
        """Return the moves: a pytree whose leaves have ``candidates`` as their first axis."""
        raise NotImplementedError

    def render(self, state: Any, clean: Any, move: Any) -> Any:
        """Return the image of one move, ``h w c``."""
        raise NotImplementedError

    def accept(self, state: Any, clean: Any, moves: Any, values: Any, iteration: Any) -> Any:
        """Return the next state, from the objective values of the moves (higher is better)."""
        raise NotImplementedError
