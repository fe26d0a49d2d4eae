"""Test every defense on the adversarial set and by adaptive attacks; write defense rows."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.config import Defense, Evaluation
from jaxiqa.core.progress import progress_bar
from jaxiqa.core.types import Images
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.data.split import Split
from jaxiqa.defenses.adaptive import adaptive, is_random, purify_each
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_loop import index_keys, score, shard_batch, to_8_bits
from jaxiqa.evaluation.attack_plan import plan_attack, strongest
from jaxiqa.evaluation.build_defense import build, check_output
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.ops.ssim import psnr, uniform_ssim
from jaxiqa.results.rows import UNDEFENDED, DefenseRow, ResultRow, Strength


def defend_all(evaluated: EvaluatedModel, evaluation: Evaluation, split: Split) -> None:
    """Append the missing defense rows; they always include "none", the metric without a defense.

    For random defenses, every image has its own key, from the seed and its place in the split; its clean and attacked
    versions have the same key. Adaptive attacks use other keys.
    """
    rows, results = evaluated.query(DefenseRow), evaluated.query(ResultRow)
    digests = adversarial_set.digests(evaluated)
    for label, chosen in {UNDEFENDED: Defense(UNDEFENDED), **evaluation.defenses}.items():
        done = rows.only(defense=label).keys("mode", "attack")
        grid = [cell for cell in _grid(evaluated, evaluation, label, split) if not _finished(cell, split, done)]
        if not grid:
            continue
        defended = Defended(evaluated, label, build(label, chosen), split)
        with progress_bar(f"{evaluated.title}: {label}", "cells") as bar:
            for number, (mode, attack, strength) in enumerate(grid):
                bar(number, len(grid), f"{mode} {attack}")
                missing = {image for image in split.ids if (mode, attack, image, strength.key) not in done}
                if mode == "transfer":
                    read = lambda ids, a=attack, s=strength: adversarial_set.read(evaluated, a, s, ids, digests)  # noqa: E731
                    of_attack = results.only(attack=attack).at(strength.key).select("image, score, rounded")
                    before = {image: scores for image, *scores in of_attack}
                    batches = defended.transferred(attack, strength, missing, read, before)
                else:
                    batches = defended.adapted(evaluation, attack, strength, missing)
                for made in batches:
                    evaluated.add(made)


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


def _finished(cell: tuple[str, str, Strength], split: Split, done: set) -> bool:
    mode, attack, strength = cell
    return all((mode, attack, image, strength.key) in done for image in split.ids)


class Defended:
    """One model behind one defense.

    Args:
        evaluated: the model.
        label: label of the defense.
        purifier: the defense.
        split: the images.
    """

    def __init__(self, evaluated: EvaluatedModel, label: str, purifier: Callable[..., Any], split: Split) -> None:
        self.evaluated, self.label, self.split = evaluated, label, split
        self.purifier = purifier
        self.keys = index_keys(evaluated.seed, "purify", len(split) + evaluated.batch_size)
        self.clean = self._clean_scores()

    def transferred(
        self,
        attack: str,
        strength: Strength,
        missing: set[str],
        read: Callable[[tuple[str, ...]], np.ndarray],
        before: Mapping[str, Sequence[float]],
    ) -> Iterator[list[DefenseRow]]:
        """Yield the rows of the stored images, batch by batch; scores without the defense come from ``before``."""
        for first, images, ids in self._batches(self.evaluated.batch_size, missing):
            began = time.perf_counter()
            stored = read(ids)
            stored = np.concatenate([stored, np.repeat(stored[-1:], len(images) - len(ids), axis=0)])
            judged = self._judge(first, images, shard_batch(stored.astype(np.float32) / 255))
            seconds = (time.perf_counter() - began) / len(ids)
            yield self._rows("transfer", attack, strength, missing, ids, before, judged, seconds)

    def adapted(
        self, evaluation: Evaluation, attack: str, strength: Strength, missing: set[str]
    ) -> Iterator[list[DefenseRow]]:
        """Attack the images through the defense, convert them to 8 bits, and yield their rows."""
        draws = evaluation.adaptive.draws if is_random(self.purifier) else 1
        seen = index_keys(self.evaluated.seed, f"adaptive {self.label}", draws)
        target = adaptive(self.evaluated.score_at(self.size), self.purifier, seen)
        runner = plan_attack(self.evaluated, attack, evaluation.attacks[attack], self.split).runner((strength,), target)
        size = max(1, self.evaluated.batch_size // draws)
        keys = index_keys(self.evaluated.seed, attack, len(self.split) + size)
        for first, images, ids in self._batches(size, missing):
            began = time.perf_counter()
            clean = shard_batch(images)
            attacked = to_8_bits(runner(clean, keys[first : first + len(images)])[0][0], clean)
            judged = self._judge(first, images, attacked)
            plain = [np.asarray(score(self.evaluated.score_fn, batch)) for batch in (clean, attacked)]
            undefended = dict(zip(ids, zip(*(scores.tolist() for scores in plain), strict=True), strict=False))
            seconds = (time.perf_counter() - began) / len(ids)
            yield self._rows("adaptive", attack, strength, missing, ids, undefended, judged, seconds)

    def _clean_scores(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for first, images, ids in self._batches(self.evaluated.batch_size, set(self.split.ids)):
            purified = self._purified(first, shard_batch(images))
            found |= zip(ids, np.asarray(self._score(purified)).tolist(), strict=False)
            self.size = purified.shape[1], purified.shape[2]
        return found

    def _batches(self, size: int, missing: set[str]) -> Iterator[tuple[int, np.ndarray, tuple[str, ...]]]:
        """Yield (place of the first image, images, ids) of the batches with missing rows."""
        for number, (images, valid, ids) in enumerate(scoring_batches(self.split, size, size=None)):
            if missing.intersection(ids[:valid]):
                yield number * min(size, len(self.split)), images, ids[:valid]

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
        mode: str,
        attack: str,
        strength: Strength,
        missing: set[str],
        ids: tuple[str, ...],
        undefended: Mapping[str, Sequence[float]],
        judged: tuple[np.ndarray, np.ndarray, np.ndarray],
        seconds: float,
    ) -> list[DefenseRow]:
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
                purified_clean=self.clean[image],
                purified=float(judged[0][i]),
                ssim=float(judged[1][i]),
                psnr=float(judged[2][i]) if np.isfinite(judged[2][i]) else None,
                seconds=seconds,
            )
            for i, image in enumerate(ids)
            if image in missing
        ]


@jax.jit
def _compare(images: Images, purified: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute SSIM and PSNR; other sizes are first resized, without antialiasing as in the benchmark."""
    if purified.shape != images.shape:
        purified = jax.image.resize(purified, images.shape, "linear", antialias=False)
    return uniform_ssim(images, purified), psnr(images, purified)
