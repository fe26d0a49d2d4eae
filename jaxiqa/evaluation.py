"""Run the grid of models, attacks and strengths; yield rows. What is already done is not done again."""

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa import attacks
from jaxiqa.attacks.batch import as_pytree
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.data.split import Split
from jaxiqa.ops.similarity import ssim
from jaxiqa.types import Images, PRNGKey, ResultRow, ScoreFn

Runner = Callable[[Images, PRNGKey], jax.Array]
"""``(images b h w c, key) -> attacked e b h w c``, one entry per strength."""


def _score(score_fn: ScoreFn, images: Images) -> jax.Array:
    return _compiled_score(as_pytree(score_fn), images)


@jax.jit
def _compiled_score(score_fn: ScoreFn, images: Images) -> jax.Array:
    return score_fn(images)


def score_split(
    score_fn: ScoreFn, split: Split, *, batch_size: int, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, float]:
    """Clean scores of a whole split, and the seconds that scoring took once compiled (decoding excluded)."""
    scores, seconds = [], 0.0
    for number, (images, valid, _) in enumerate(scoring_batches(split, batch_size, size=size)):
        images = jnp.asarray(images)
        if number == 0:
            _score(score_fn, images).block_until_ready()
        began = time.perf_counter()
        scores.append(np.asarray(_score(score_fn, images))[:valid])
        seconds += time.perf_counter() - began
    return np.concatenate(scores), seconds


def attack_runner(
    name: str,
    options: dict[str, Any],
    epsilons: Sequence[float] | None,
    score_fn: ScoreFn,
    fitted: Sequence[Any] = (),
) -> Runner:
    """One attack at all its strengths.

    Args:
        name: a key of `jaxiqa.attacks.ATTACKS` or, with ``fitted``, of `jaxiqa.attacks.FITTED`.
        options: keyword arguments of the attack, without its strength.
        epsilons: strengths, or None for an attack without one.
        score_fn: the metric under attack.
        fitted: for an attack that was fitted on other images, one per strength.
    """
    if fitted:
        return lambda images, key: jnp.stack([attack(score_fn, images, key) for attack in fitted])
    if epsilons is None:
        attack = attacks.make(name, **options)
        return lambda images, key: attack(score_fn, images, key)[None]
    attack = attacks.make(name, epsilon=epsilons[0], **options)
    return lambda images, key: attacks.sweep(attack, score_fn, images, key, jnp.asarray(epsilons, jnp.float32))


@dataclass(frozen=True)
class Batch:
    """What one batch of attacked images gave: its rows, and the pictures, for those who want to look."""

    rows: list[ResultRow]
    ids: tuple[str, ...]
    clean: np.ndarray  # b h w c
    attacked: np.ndarray  # e b h w c


def attack_split(
    runner: Runner,
    score_fn: ScoreFn,
    split: Split,
    *,
    model: str,
    seed: int,
    attack: str,
    epsilons: Sequence[float] | None,
    batch_size: int,
    done: Collection[tuple[str, float | None]] = (),
) -> Iterator[Batch]:
    """Attack every image of a split, batch by batch.

    Each batch has its own key, from ``seed``, the attack's label and the batch's number, so that a run that was
    interrupted gives the rows an uninterrupted one gives. A batch all of whose (image, ε) are in ``done`` is
    skipped; a partly finished one is run again and only its missing rows are returned.
    """
    strengths: Sequence[float | None] = [None] if epsilons is None else list(epsilons)
    base = jax.random.fold_in(jax.random.key(seed), zlib.crc32(attack.encode()) & 0x7FFFFFFF)
    for number, (images, valid, ids) in enumerate(scoring_batches(split, batch_size, size=None)):
        missing = [
            (image, strength) for image in ids[:valid] for strength in strengths if (image, strength) not in done
        ]
        if not missing:
            continue
        clean = jnp.asarray(images)
        before = np.asarray(_score(score_fn, clean))
        began = time.perf_counter()
        attacked = jax.block_until_ready(runner(clean, jax.random.fold_in(base, number)))
        seconds = (time.perf_counter() - began) / (len(strengths) * valid)
        rows = []
        for strength, pictures in zip(strengths, attacked, strict=True):
            after = np.asarray(_score(score_fn, pictures))
            similarity = np.asarray(_similarity(clean, pictures))
            change = np.asarray(pictures) - images
            for i in range(valid):
                if (ids[i], strength) in missing:
                    rows.append(
                        ResultRow(
                            image=ids[i],
                            model=model,
                            seed=seed,
                            attack=attack,
                            epsilon=strength,
                            score=float(before[i]),
                            attacked=float(after[i]),
                            linf=float(np.abs(change[i]).max()),
                            l2=float(np.sqrt(np.sum(np.square(change[i], dtype=np.float64)))),
                            ssim=float(similarity[i]),
                            seconds=seconds,
                        )
                    )
        yield Batch(rows, tuple(ids[:valid]), images[:valid], np.asarray(attacked)[:, :valid])


_similarity = jax.jit(ssim)
