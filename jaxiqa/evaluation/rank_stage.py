"""Attack the order of the labelled images, and measure the slope of the score at each of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxiqa.attacks import Maximize, invert_ranks, rank_attacks
from jaxiqa.config import Ranks
from jaxiqa.core.progress import progress_bar
from jaxiqa.core.workers import Compute, alone
from jaxiqa.data.pipeline import scoring_batch
from jaxiqa.data.split import Split
from jaxiqa.evaluation.attack_loop import index_keys, score, shard_batch
from jaxiqa.evaluation.evaluated_model import EvaluatedModel, batch_size
from jaxiqa.lipschitz.local import gradient_norms
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import CLEAN, RankRow


@dataclass(frozen=True)
class RankPlan:
    """What is attacked, and how.

    Attributes:
        labelled: all images with human scores.
        size: (height, width) to which they are resized; None: all have one size.
        ranks: strengths, number of images and queries.
    """

    labelled: Split
    size: tuple[int, int] | None
    ranks: Ranks

    @property
    def places(self) -> np.ndarray:
        """Return the places of the attacked images, spread evenly over the order of the human scores.

        Halves are rounded down, so that the middle one of an odd number is in the low half of all images, too.
        """
        assert self.labelled.mos is not None  # startup has checked it
        order, count = np.argsort(self.labelled.mos, kind="stable"), self.ranks.images
        if count is None or count >= len(order):
            return np.arange(len(order))
        exact = 2 * np.arange(count) * (len(order) - 1)  # in units of 1 / (2 · (count − 1))
        return np.sort(order[-((count - 1 - exact) // (2 * (count - 1)))])

    def labels(self, others: Sequence[str], epsilon: float) -> list[str]:
        """Return the names of the attacks at a strength; that of a transfer attack names its sources, the others."""
        found = list(rank_attacks(epsilon, Maximize(), queries=self.queries(epsilon)))
        return [*found, f"transfer from {', '.join(others)}"] if others else found

    def queries(self, epsilon: float) -> int:
        """Return the number of scores per image for the attack without gradients at a strength."""
        chosen = self.ranks.query_epsilons
        return self.ranks.queries if chosen is None or epsilon in chosen else 0

    def present(self, rows: Rows, models: Sequence[str]) -> Rows:
        """Return the rows of this plan: its images, strengths and attacks, for these models."""
        images = [self.labelled.ids[place] for place in self.places]
        labels = {
            (name, epsilon): {CLEAN, *self.labels([other for other in models if other != name], epsilon)}
            for name in models
            for epsilon in self.ranks.epsilons
        } | {(name, 0.0): {CLEAN} for name in models}
        wanted = [(name, epsilon, label) for (name, epsilon), found in labels.items() for label in found]
        condition = " OR ".join(["(model = ? AND epsilon = ? AND attack = ?)"] * len(wanted)) or "false"
        chosen = rows.where(condition, *(value for one in wanted for value in one))
        return chosen.where("image IN (SELECT unnest(?::VARCHAR[]))", images)


@dataclass(frozen=True, eq=False)
class Order:
    """A job of `jaxiqa.core.workers`: one model whose order is attacked."""

    others: tuple[EvaluatedModel, ...]  # from which attacks are transferred
    evaluated: EvaluatedModel
    plan: RankPlan
    shape: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Images that are attacked together, by one attack at one strength."""

    label: str
    epsilon: float
    first: int  # place of the first image among those of the plan
    batch: int  # batch size


def attack_order(
    evaluated: EvaluatedModel, others: Sequence[EvaluatedModel], plan: RankPlan, compute: Compute = alone
) -> None:
    """Append the missing rows of one model; ``others`` are the models from which attacks are transferred to it."""
    split = plan.labelled.select(plan.places)
    done = set(evaluated.query(RankRow).select("attack, epsilon, image"))
    names = [other.name for other in others]
    work = [(CLEAN, 0.0)]
    work += [(label, epsilon) for epsilon in plan.ranks.epsilons for label in plan.labels(names, epsilon)]
    missing = {(*pair, image) for pair in work for image in split.ids} - done
    if not missing:
        return
    size = min(batch_size(evaluated, compute), len(split))
    blocks = [
        Block(label, epsilon, first, size)
        for label, epsilon in work
        for first in range(0, len(split), size)
        if any((label, epsilon, image) in missing for image in split.ids[first : first + size])
    ]
    job = Order(tuple(others), evaluated, plan, plan.size or split.read(0).shape[:2])
    with progress_bar(f"{evaluated.title}: attacks on the order", "batches") as bar:
        for number, rows in enumerate(compute(attack_block, job, blocks)):
            evaluated.add([row for row in rows if (row.attack, row.epsilon, row.image) in missing])
            bar(number + 1, len(blocks), rows[0].attack)


def attack_block(job: Order, block: Block) -> list[RankRow]:
    """Attack the images of a block.

    Raises:
        ValueError: a score or slope is not finite.
    """
    evaluated, plan, label, epsilon, first = job.evaluated, job.plan, block.label, block.epsilon, block.first
    score_fn, sources = evaluated.score_at(job.shape), [other.score_at(job.shape) for other in job.others]
    places, mos = plan.places, plan.labelled.mos
    assert mos is not None  # startup has checked it
    signs = np.asarray(invert_ranks(mos[places]).sign)  # of the attacked images, whose order is reported
    keys = index_keys(evaluated.seed, f"order {label}", len(mos))[places]
    pixels, valid, ids = scoring_batch(plan.labelled.select(places), first, block.batch, size=plan.size)
    chosen = np.minimum(np.arange(first, first + len(pixels)), len(places) - 1)  # the last batch is padded
    images, began, slopes = shard_batch(pixels), time.perf_counter(), np.zeros(len(pixels))
    if label == CLEAN:
        attacked, slopes = images, np.asarray(gradient_norms(score_fn, images, "linf")) / 255
    else:
        several = rank_attacks(epsilon, Maximize(signs[chosen]), sources=sources, queries=plan.queries(epsilon))
        attack = several["transfer" if label.startswith("transfer") else label]
        attacked = attack(score_fn, images, keys[chosen])
    scores = np.asarray(score(score_fn, attacked))
    seconds = (time.perf_counter() - began) / valid
    if not (np.isfinite(scores).all() and np.isfinite(slopes).all()):
        raise ValueError(f"{evaluated.title}: {label}: the metric gave a score or slope that is not finite")
    return [
        RankRow(
            image=ids[i],
            model=evaluated.name,
            seed=evaluated.seed,
            attack=label,
            epsilon=epsilon,
            mos=float(mos[places[first + i]]),
            attacked=float(scores[i]),
            slope=float(slopes[i]),
            seconds=seconds,
        )
        for i in range(valid)
    ]
