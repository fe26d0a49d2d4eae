"""One Pixel: change a few pixels; differential evolution finds their positions and colours."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.query_attack import QueryAttack
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_count, check_number
from jaxiqa.core.pytrees import static


class State(NamedTuple):
    genes: Any  # population × pixels × (row, column, colours), all in [0, 1]
    values: Any  # population


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnePixel(QueryAttack):
    """One Pixel: differential evolution over the positions and colours of ``pixels`` pixels.

    In each generation, a mutant of three other members replaces a member of the population if the mutant's objective
    is higher:

        m_i = x_a + mutation · (x_b − x_c),    a, b, c, i distinct.

    The first population has uniform positions and normal colours, N(128, 127²) / 255; genes are clipped to their range.

    Args:
        pixels: most pixels that change, >= 1; the attack's strength.
        population: size of the population, >= 4. None is 400; in the benchmark ``max(1, 300 // 5·pixels) · 5·pixels``.
        generations: generations after the first population, >= 0. None is 100; in the benchmark 10. An image costs at
            most ``1 + population · (generations + 1)`` queries; the clean image counts.
        mutation: the factor above, in [0, 2].
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        batch_size: most images that the metric scores at once.
        variant: ``"paper"``, or ``"benchmark"``, which is SciPy's default: mutants of the best member, ``x_best +
            F · (x_b − x_c)`` with F uniform in [0.5, 1) and new in every generation; the first population is a Latin
            hypercube; genes out of range are drawn again.

    Call it as `jaxiqa.attacks.pgd.PGD`; `run` also returns scores and query counts. It
    returns the best image found, so the score is never worse than the clean one.

    Raises:
        ValueError: an option or the images are out of range, or ``score_fn`` returned a score that is not finite.

    >>> images = jnp.full((1, 4, 6, 3), 0.5)
    >>> attack = OnePixel(2, population=20, generations=5)
    >>> result = attack.run(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(result.scores[0] > 0.5), bool((result.images != images).any(-1).sum() <= 2), result.queries.tolist()
    (True, True, [121])

    Reference: Su, Vargas and Sakurai, "One Pixel Attack for Fooling Deep Neural Networks", arXiv:1710.08864.

    **Differs from the paper**: the score replaces the class probability.
    """

    pixels: int = static(1)
    _: KW_ONLY
    population: int | None = static(None)
    generations: int | None = static(None)
    mutation: Number = 0.5
    objective: Objective | str = "raise"
    batch_size: int = static(32)
    variant: str = static("paper")

    strength: ClassVar[str] = "pixels"

    def check(self):
        check_count("pixels", self.pixels, 1)
        check_count("population", self.candidates, 4)
        check_count("generations", self.iterations - 1, 0)
        check_number("mutation", self.mutation, 0.0, 2.0, or_none=True)

    @property
    def candidates(self) -> int:
        if self.population is not None:
            return self.population
        return 400 if self.variant == "paper" else max(1, 300 // (5 * self.pixels)) * 5 * self.pixels

    @property
    def iterations(self) -> int:
        generations = {"paper": 100, "benchmark": 10}[self.variant] if self.generations is None else self.generations
        return generations + 1

    def start(self, clean, value, key):
        shape = (self.candidates, self.pixels, 2 + clean.shape[2])
        uniform, other = jax.random.split(key)
        genes = jax.random.uniform(uniform, shape)
        if self.variant == "benchmark":
            strata = jnp.broadcast_to(jnp.arange(shape[0])[:, None, None], shape)
            genes = (jax.random.permutation(other, strata, independent=True) + genes) / shape[0]
        else:
            colours = (128 + 127 * jax.random.normal(other, shape)) / 255
            genes = jnp.where(jnp.arange(shape[2]) < 2, genes, jnp.clip(colours, 0, 1))
        return State(genes, jnp.full((shape[0],), -jnp.inf, value.dtype))

    def propose(self, state, clean, key, iteration):
        trio, factor, again = jax.random.split(key, 3)
        size = self.candidates
        # Draw three distinct other members: those with the largest random numbers; the member's own number is lowest.
        lots = jax.random.uniform(trio, (size, size)) - 2 * jnp.eye(size)
        a, b, c = jnp.moveaxis(jax.lax.top_k(lots, 3)[1], 1, 0)
        if self.variant == "benchmark":
            mutation: Number = jax.random.uniform(factor, minval=0.5)
            base = state.genes[jnp.argmax(state.values)]
        else:
            base, mutation = state.genes[a], self.mutation
        mutants = base + mutation * (state.genes[b] - state.genes[c])
        if self.variant == "benchmark":
            outside = (mutants < 0) | (mutants > 1)
            mutants = jnp.where(outside, jax.random.uniform(again, mutants.shape), mutants)
        return jnp.where(iteration == 0, state.genes, jnp.clip(mutants, 0, 1))

    def render(self, state, clean, genes):
        h, w, _ = clean.shape
        size = jnp.array([h, w])
        row, column = jnp.minimum((genes[:, :2] * size).astype(int), size - 1).T
        # If pixels have one position, the last counts. All write its colour, since the order of writes is undefined.
        same = (row[:, None] == row) & (column[:, None] == column)
        last = jnp.max(jnp.where(same, np.arange(self.pixels), 0), 1)
        return clean.at[row, column].set(genes[last, 2:].astype(clean.dtype))

    def accept(self, state, clean, genes, values, iteration):
        better = values > state.values
        return State(jnp.where(better[:, None, None], genes, state.genes), jnp.where(better, values, state.values))
