"""One model under one attack at all its strengths, batch by batch. What is already done is not done again."""

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa import attacks
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import as_pytree, beside
from jaxiqa.core.scores import compiled_scores
from jaxiqa.core.types import Images, ScoreFn
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.data.split import Split
from jaxiqa.ops.ssim import ssim
from jaxiqa.results.rows import ResultRow

Runner = Callable[..., tuple[jax.Array, np.ndarray | None]]
"""``(images b h w c, a key for each, progress=None) -> (attacked e b h w c, queries e b or None)``, one entry per
strength; where there is anything to say in between, ``progress(done, total)`` hears it, in any unit."""
Progress = Callable[[float, float], Any]


def score(score_fn: ScoreFn, images: Images) -> jax.Array:
    """``score_fn(images)``, compiled once per structure of the score function."""
    return compiled_scores(beside(images, as_pytree(score_fn)), images)


def score_split(
    score_fn: ScoreFn, split: Split, *, batch_size: int, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, float]:
    """Clean scores of a whole split, and the seconds that scoring took once compiled (decoding excluded)."""
    scores, seconds = [], 0.0
    for number, (pixels, valid, _) in enumerate(scoring_batches(split, batch_size, size=size)):
        images = jnp.asarray(pixels)
        if number == 0:
            score(score_fn, images).block_until_ready()
        began = time.perf_counter()
        scores.append(np.asarray(score(score_fn, images))[:valid])
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
        epsilons: strengths, in the unit of the field they set, or None for the attack as its options make it.
        score_fn: the metric under attack.
        fitted: for an attack that was fitted on other images, one per strength.
    """
    if fitted:
        return lambda images, key, progress=None: (jnp.stack([one(score_fn, images, key) for one in fitted]), None)
    if epsilons is None:
        several = [attacks.make(name, **options)]
    else:
        strength = attacks.strength_option(name)
        several = [attacks.make(name, **{**options, strength: epsilon}) for epsilon in epsilons]
    if isinstance(several[0], attacks.QueryAttack):

        def count(images: Images, key: Keys, progress: Progress | None = None) -> tuple[jax.Array, np.ndarray]:
            found: list[Any] = []
            for attack in several:
                hear = progress and _part(progress, len(found), 1, len(several))
                found.append(attack.run(score_fn, images, key, hear))
            return jnp.stack([result.images for result in found]), np.stack([result.queries for result in found])

        return count
    alone = jax.default_backend() == "cpu" and len(jax.local_devices()) == 1

    def at_once(images: Images, key: Keys, progress: Progress | None = None) -> tuple[jax.Array, None]:
        attack = attacks.OneByOne(several[0], progress) if alone else several[0]
        if epsilons is None:
            return attack(score_fn, images, key)[None], None
        return attacks.sweep(attack, score_fn, images, key, epsilons), None

    return at_once


def _part(progress: Progress, first: int, count: int, total: int) -> Progress:
    """What hears how far ``count`` of ``total`` are, of which ``first`` are done."""
    return lambda done, whole: progress(first + count * done / whole, total)


@dataclass(frozen=True)
class Batch:
    """What one batch of attacked images gave: its rows, and the pictures, for those who want to look."""

    rows: list[ResultRow]
    ids: tuple[str, ...]
    clean: np.ndarray  # b h w c
    attacked: np.ndarray  # e b h w c
    stored: np.ndarray  # e b h w c, uint8: `to_8_bits` of the attacked images


def attack_split(
    runner: Runner,
    score_fn: ScoreFn,
    split: Split,
    *,
    model: str,
    seed: int,
    attack: str,
    epsilons: Sequence[float] | None,
    levels: Sequence[str] | None = None,
    batch_size: int,
    done: Collection[tuple[str, float | str | None]] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Batch]:
    """Attack every image of a split, batch by batch.

    Each image has its own key, from ``seed``, the attack's label and its place in the split, so that a run that was
    interrupted gives the rows an uninterrupted one gives, whatever the size of the batches. A batch all of whose
    (image, ε), or (image, level) where strengths have names, are in ``done`` is skipped; a partly finished one is run
    again and only its missing rows are returned. ``progress(done, total)`` hears of images, and of parts of them.
    """
    values: Sequence[float | None] = [None] if epsilons is None else list(epsilons)
    strengths = list(levels or values)
    keys = index_keys(seed, attack, len(split) + batch_size)  # the last batch is filled up
    for number, (images, valid, ids) in enumerate(scoring_batches(split, batch_size, size=None)):
        missing = [
            (image, strength) for image in ids[:valid] for strength in strengths if (image, strength) not in done
        ]
        if not missing:
            continue
        first = number * batch_size
        clean = shard_batch(images)
        score_fn = beside(clean, as_pytree(score_fn))  # once: batches are divided alike
        before = np.asarray(score(score_fn, clean))
        began = time.perf_counter()
        attacked, queries = runner(clean, keys[first:][: len(images)], _part(progress, first, valid, len(split)))
        jax.block_until_ready(attacked)
        seconds = (time.perf_counter() - began) / (len(strengths) * valid)
        rows, stored = [], []
        for which, (strength, pictures) in enumerate(zip(strengths, attacked, strict=True)):
            after = np.asarray(score(score_fn, pictures))
            kept = to_8_bits(pictures, clean)
            rounded = np.asarray(score(score_fn, kept))
            _check_finite(ids[:valid], {"the attacked image": after, "that image in 8 bits": rounded})
            stored.append(np.round(np.asarray(kept)[:valid] * 255).astype(np.uint8))
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
                            epsilon=None if (epsilon := values[which]) is None else float(epsilon),
                            score=float(before[i]),
                            attacked=float(after[i]),
                            rounded=float(rounded[i]),
                            linf=float(np.abs(change[i]).max()),
                            l2=float(np.sqrt(np.sum(np.square(change[i], dtype=np.float64)))),
                            ssim=float(similarity[i]),
                            queries=None if queries is None else int(queries[which, i]),
                            seconds=seconds,
                            level=levels[which] if levels else None,
                        )
                    )
        progress(first + valid, len(split))
        yield Batch(rows, tuple(ids[:valid]), images[:valid], np.asarray(attacked)[:, :valid], np.stack(stored))


def _check_finite(ids: Sequence[str], scores: Mapping[str, np.ndarray]) -> None:
    """Raise ``ValueError`` where a score is not finite: an attack of one step has not asked for it."""
    for what, values in scores.items():
        for image, value in zip(ids, values, strict=False):
            if not np.isfinite(value):
                raise ValueError(f"score_fn gave a non-finite score, {value}, for {what} made of {image}")


_similarity = jax.jit(ssim)


def index_keys(seed: int, purpose: str, count: int) -> jax.Array:
    """A key for every place in a split, that nothing but the seed and the purpose decides."""
    base = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) & 0x7FFFFFFF)
    return image_keys(base, count)


@jax.jit
def to_8_bits(attacked: Images, clean: Images) -> Images:
    """Attacked images in 8 bits: every change of a value is cut off to whole steps of 1 / 255, towards the clean image.

    So a stored image is nowhere further from the clean one than the attacked image is, and stays in every ball that
    the attack stayed in, whatever its norm; rounding to the nearest step may leave it by 1 / 510. A change of less than
    1 / 255 is lost. Changes within 1e-4 of a whole step, as float32 computes them, count as that step.

    Args:
        attacked: ``b h w c`` in [0, 1].
        clean: the same images before the attack; multiples of 1 / 255.

    >>> clean = jnp.full((1, 1, 1, 3), 100 / 255)
    >>> [round(255 * float(to_8_bits(clean + step / 255, clean).max()), 2) for step in (2, 2.9, -2.9, 0.9)]
    [102.0, 102.0, 98.0, 100.0]
    """
    before = jnp.round(clean * 255)
    change = attacked * 255 - before
    steps = jnp.sign(change) * jnp.floor(jnp.abs(change) + 1e-4)
    return jnp.clip(before + steps, 0, 255) / 255


def shard_batch(images: np.ndarray) -> jax.Array:
    """The batch, divided over all devices where they divide it; every program that gets it then runs on all of them.

    >>> shard_batch(np.zeros((4, 2, 2, 3), np.float32)).shape
    (4, 2, 2, 3)
    """
    devices = jax.local_devices()
    if len(devices) == 1 or len(images) % len(devices):
        return jnp.asarray(images)
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.device_put(images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
