"""Test every defense on the adversarial set and by adaptive attacks; write defense rows."""

import itertools
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxiqa.config import Evaluation
from jaxiqa.core.progress import progress_bar
from jaxiqa.core.types import Images
from jaxiqa.core.workers import Compute, alone
from jaxiqa.data.pipeline import scoring_batch
from jaxiqa.data.split import Split
from jaxiqa.defenses.adaptive import adaptive, is_random, purify_each
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_loop import Runner, index_keys, score, shard_batch, to_8_bits
from jaxiqa.evaluation.attack_plan import AttackPlan, strongest
from jaxiqa.evaluation.build_defense import check_output
from jaxiqa.evaluation.evaluated_model import EvaluatedModel, batch_size
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.evaluation.work import Work
from jaxiqa.ops.ssim import psnr, uniform_ssim
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import UNDEFENDED, DefenseRow, ResultRow, Strength

Cell = tuple[str, str, Strength]
"""Mode ("transfer" or "adaptive"), attack and strength."""
Pair = Sequence[float]
"""The scores of a clean image and of its attacked version, without a defense."""


@dataclass(frozen=True)
class Clean:
    """The clean images of a block behind a defense: their scores by name, and the size of the purified images."""

    defense: str
    scores: dict[str, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Images that are judged together in one cell, and what is known about them."""

    cell: Cell
    first: int  # place of the first image
    batch: int  # batch size
    missing: frozenset[str]  # images without a row
    clean: Clean
    undefended: Mapping[str, Pair]  # of stored images
    digests: adversarial_set.Digests  # of stored images


def defend_all(evaluated: EvaluatedModel, evaluation: Evaluation, split: Split, compute: Compute = alone) -> None:
    """Append the missing defense rows; they always include "none", the metric without a defense.

    For random defenses, every image has its own key, from the seed and its place in the split; its clean and attacked
    versions have the same key. Adaptive attacks use other keys. ``compute`` computes blocks of images.
    """
    work, rows = Work(evaluated, evaluation, split), evaluated.query(DefenseRow)
    counts = {label: len(list(_missing(work, label, rows))) for label in (UNDEFENDED, *evaluation.defenses)}
    labels = [label for label, count in counts.items() if count]
    if not labels:
        return
    size = batch_size(evaluated, compute)
    places = range(0, len(split), min(size, len(split)))
    clean: dict[str, Clean] = {}
    with progress_bar(f"{evaluated.title}: defenses", "rows") as bar:
        for part in compute(clean_block, work, [(label, first, size) for label in labels for first in places]):
            clean.setdefault(part.defense, Clean(part.defense, {}, part.size)).scores.update(part.scores)
            bar(0, sum(counts.values()), f"{part.defense} of clean images")
        done = 0
        for made in compute(defend_block, work, _blocks(work, clean, rows, size)):
            evaluated.add(made)
            done += len(made)
            bar(done, sum(counts.values()), f"{made[0].defense}: {made[0].mode} {made[0].attack}")


def _missing(work: Work, label: str, rows: Rows) -> Iterator[tuple[Cell, str]]:
    """Yield (cell, image) of the missing rows of a defense."""
    done = rows.only(defense=label).keys("mode", "attack")
    for mode, attack, strength in _grid(work.evaluated, work.evaluation, label, work.split):
        for image in work.split.ids:
            if (mode, attack, image, strength.key) not in done:
                yield (mode, attack, strength), image


def _blocks(work: Work, clean: Mapping[str, Clean], rows: Rows, size: int) -> Iterator[Block]:
    """Yield the blocks with missing rows of all defenses.

    Args:
        work: model, defenses and images.
        clean: clean images behind each defense.
        rows: rows that exist.
        size: batch size; that of adaptive attacks is divided by the number of draws.
    """
    evaluated, split = work.evaluated, work.split
    results, digests = evaluated.query(ResultRow), adversarial_set.digests(evaluated)
    for label, known in clean.items():
        adaptive_size = max(1, size // _draws(work, label))
        for cell, pairs in itertools.groupby(_missing(work, label, rows), key=operator.itemgetter(0)):
            (mode, attack, strength), missing = cell, {image for _, image in pairs}
            stored = mode == "transfer"
            scores: dict[str, Pair] = {}
            if stored:
                of_attack = results.only(attack=attack).at(strength.key).select("image, score, rounded")
                scores = {image: pair for image, *pair in of_attack}
            batch = size if stored else adaptive_size
            for first in range(0, len(split), min(batch, len(split))):
                ids = split.ids[first : first + batch]
                if here := missing.intersection(ids):
                    keys = [(attack, image, strength.key) for image in ids] if stored else []
                    yield Block(
                        cell,
                        first,
                        batch,
                        frozenset(here),
                        Clean(label, {image: known.scores[image] for image in ids}, known.size),
                        {image: scores[image] for image in ids} if stored else {},
                        {key: digests[key] for key in keys},
                    )


def _draws(work: Work, label: str) -> int:
    return work.evaluation.adaptive.draws if is_random(work.purifier(label)) else 1


def _grid(
    evaluated: EvaluatedModel, evaluation: Evaluation, label: str, split: Split
) -> Iterator[tuple[str, str, Strength]]:
    """Yield (mode, attack, strength); there is no adaptive attack without a defense, since it is the attack itself."""
    for attack, chosen in evaluation.attacks.items():
        for strength in strengths_of(evaluated, attack, chosen, split):
            yield "transfer", attack, strength
    for attack in evaluation.adaptive.attacks if label != UNDEFENDED else ():
        strengths = strengths_of(evaluated, attack, evaluation.attacks[attack], split)
        which = evaluation.adaptive.strengths
        if which == "all":
            chosen_ones = strengths
        else:
            chosen_ones = (strengths[len(strengths) // 2 if which == "middle" else strongest(strengths)],)
        for strength in chosen_ones:
            yield "adaptive", attack, strength


def clean_block(work: Work, unit: tuple[str, int, int]) -> Clean:
    """Score clean images behind a defense; ``unit`` is its label, the place of the first image and the batch size."""
    label, first, size = unit
    return Defended(work.evaluated, label, work.purifier(label), work.split, size).clean(first)


def defend_block(work: Work, block: Block) -> list[DefenseRow]:
    """Return the missing rows of a block."""
    evaluated, label, split = work.evaluated, block.clean.defense, work.split
    defended = Defended(evaluated, label, work.purifier(label), split, block.batch)
    mode, attack, strength = block.cell
    if mode == "adaptive":
        return defended.adapted(block, _runner(work, label, attack, strength, block.clean.size))
    ids = split.ids[block.first : block.first + block.batch]
    return defended.transferred(block, adversarial_set.read(evaluated, attack, strength, ids, block.digests))


@lru_cache(maxsize=1)
def _runner(work: Work, label: str, attack: str, strength: Strength, size: tuple[int, int]) -> Runner:
    """Return the runner of an adaptive attack; ``size`` is that of the purified images."""
    seen = index_keys(work.evaluated.seed, f"adaptive {label}", _draws(work, label))
    target = adaptive(work.evaluated.score_at(size), work.purifier(label), seen)
    plan = AttackPlan(work.evaluated, attack, work.evaluation.attacks[attack], (strength,))
    return plan.runner(score_fn=target)


class Defended:
    """One model behind one defense.

    Args:
        evaluated: the model.
        label: label of the defense.
        purifier: the defense.
        split: the images.
        batch: batch size.
    """

    def __init__(
        self, evaluated: EvaluatedModel, label: str, purifier: Callable[..., Any], split: Split, batch: int
    ) -> None:
        self.evaluated, self.label, self.split, self.batch = evaluated, label, split, batch
        self.purifier = purifier
        self.keys = index_keys(evaluated.seed, "purify", len(split) + batch)

    def clean(self, first: int) -> Clean:
        """Return the scores of the clean images of the batch that begins with the image at position ``first``."""
        images, _, ids = scoring_batch(self.split, first, self.batch, size=None)
        purified = self._purified(first, shard_batch(images))
        scores = np.asarray(self._score(purified)).tolist()
        return Clean(self.label, dict(zip(ids, scores, strict=False)), (purified.shape[1], purified.shape[2]))

    def transferred(self, block: Block, stored: UInt8[np.ndarray, "b h w 3"]) -> list[DefenseRow]:
        """Return the rows of stored images."""
        images, _, ids = scoring_batch(self.split, block.first, self.batch, size=None)
        began = time.perf_counter()
        stored = np.concatenate([stored, np.repeat(stored[-1:], len(images) - len(ids), axis=0)])
        judged = self._judge(block.first, images, shard_batch(stored.astype(np.float32) / 255))
        return self._rows(block, ids, block.undefended, judged, (time.perf_counter() - began) / len(ids))

    def adapted(self, block: Block, runner: Runner) -> list[DefenseRow]:
        """Attack the images through the defense, convert them to 8 bits, and return their rows."""
        images, _, ids = scoring_batch(self.split, block.first, self.batch, size=None)
        keys = index_keys(self.evaluated.seed, block.cell[1], len(self.split) + self.batch)
        began = time.perf_counter()
        clean = shard_batch(images)
        attacked = to_8_bits(runner(clean, keys[block.first : block.first + len(images)])[0][0], clean)
        judged = self._judge(block.first, images, attacked)
        plain = [np.asarray(score(self.evaluated.score_fn, batch)) for batch in (clean, attacked)]
        undefended = dict(zip(ids, zip(*(scores.tolist() for scores in plain), strict=True), strict=False))
        return self._rows(block, ids, undefended, judged, (time.perf_counter() - began) / len(ids))

    def _purified(self, first: int, images: Images) -> jax.Array:
        # Not compiled as a whole: purifiers compile their own parts, and some loop over compiled steps.
        purified = jnp.asarray(purify_each(self.purifier, images, self.keys[first : first + len(images)]))
        check_output(self.label, images, purified)
        return purified

    def _score(self, purified: jax.Array) -> jax.Array:
        """Score by the metric for the size of the defense's output."""
        return score(self.evaluated.score_at((purified.shape[1], purified.shape[2])), purified)

    def _judge(self, first: int, images: np.ndarray, attacked: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, per image, f(P(x')), and SSIM and PSNR of P(x') against x."""
        purified = self._purified(first, attacked)
        ssim, noise = _compare(jnp.asarray(images), purified)
        return np.asarray(self._score(purified)), np.asarray(ssim), np.asarray(noise)

    def _rows(
        self,
        block: Block,
        ids: tuple[str, ...],
        undefended: Mapping[str, Pair],
        judged: tuple[np.ndarray, np.ndarray, np.ndarray],
        seconds: float,
    ) -> list[DefenseRow]:
        mode, attack, strength = block.cell
        return [
            DefenseRow(
                image=image,
                model=self.evaluated.name,
                seed=self.evaluated.seed,
                attack=attack,
                epsilon=None if strength.epsilon is None else float(strength.epsilon),
                level=strength.level,
                defense=self.label,
                mode=mode,
                clean=undefended[image][0],
                attacked=undefended[image][1],
                purified_clean=block.clean.scores[image],
                purified=float(judged[0][i]),
                ssim=float(judged[1][i]),
                psnr=float(judged[2][i]) if np.isfinite(judged[2][i]) else None,
                seconds=seconds,
            )
            for i, image in enumerate(ids)
            if image in block.missing
        ]


@jax.jit
def _compare(images: Images, purified: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute SSIM and PSNR; other sizes are first resized, without antialiasing as in the benchmark."""
    if purified.shape != images.shape:
        purified = jax.image.resize(purified, images.shape, "linear", antialias=False)
    return uniform_ssim(images, purified), psnr(images, purified)
