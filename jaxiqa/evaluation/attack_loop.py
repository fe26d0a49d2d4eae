"""Attack one model by one attack at all its strengths, batch by batch; finished work is not repeated."""

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
from jaxiqa.data.pipeline import scoring_batch, scoring_batches
from jaxiqa.data.split import Split
from jaxiqa.ops.ssim import ssim
from jaxiqa.results.rows import ResultRow

Runner = Callable[..., tuple[jax.Array, np.ndarray | None]]
"""``(images b h w c, one key per image, progress=None) -> (attacked e b h w c, queries e b or None)``; e: strengths.
``progress``, if given, is called with (done, total), in any unit."""
Progress = Callable[[float, float], Any]


def score(score_fn: ScoreFn, images: Images) -> jax.Array:
    """Return ``score_fn(images)``, compiled once per structure of the score function."""
    return compiled_scores(beside(images, as_pytree(score_fn)), images)


def score_split(
    score_fn: ScoreFn, split: Split, *, batch_size: int, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, float]:
    """Return the clean scores of a split, and the seconds of scoring without compilation and decoding.

    >>> from jaxiqa.data import load
    >>> split = load("builtin", size=(16, 20), train=4, val=2, test=3)["test"]
    >>> scores, seconds = score_split(lambda images: images.mean((1, 2, 3)), split, batch_size=2)
    >>> scores.shape
    (3,)
    """
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
    """Return the runner of one attack at all its strengths.

    Args:
        name: a key of `jaxiqa.attacks.ATTACKS` or, with ``fitted``, of `jaxiqa.attacks.FITTED`.
        options: keyword arguments of the attack, without its strength.
        epsilons: strengths, in the unit of the field they set; None: the options decide the strength.
        score_fn: the metric under attack.
        fitted: attacks that were fitted on other images, one per strength.

    Raises:
        ValueError: an unknown attack or option.

    >>> score = jax.tree_util.Partial(lambda images: images.mean((1, 2, 3)))
    >>> run = attack_runner("fgsm", {}, [2 / 255, 4 / 255], score)
    >>> attacked, queries = run(jnp.full((3, 8, 8, 3), 0.5), jax.random.key(0))
    >>> attacked.shape, queries
    ((2, 3, 8, 8, 3), None)
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
                report = progress and _part(progress, len(found), 1, len(several))
                found.append(attack.run(score_fn, images, key, report))
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
    """Rescale a progress callback to ``count`` of ``total`` units, after ``first`` finished units."""
    return lambda done, whole: progress(first + count * done / whole, total)


@dataclass(frozen=True)
class Batch:
    """The result of one batch: its rows and its images."""

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

    Each image has its own key, from ``seed``, the attack's label and its place in the split. So an interrupted run
    gives the same rows as an uninterrupted one, for any batch size. A batch is skipped if all its (image, ε) pairs, or
    (image, level) pairs for named strengths, are in ``done``. A partly finished batch is run again, and only its
    missing rows are returned. ``progress(done, total)`` is called in units of images, which may be fractions.

    Raises:
        ValueError: a score is not finite; the message names the images.

    >>> from jaxiqa.data import load
    >>> split = load("builtin", size=(16, 20), train=4, val=2, test=3)["test"]
    >>> score = jax.tree_util.Partial(lambda images: images.mean((1, 2, 3)))
    >>> run = attack_runner("fgsm", {}, [4 / 255], score)
    >>> options = {"model": "mean", "seed": 0, "attack": "FGSM", "epsilons": [4 / 255], "batch_size": 2}
    >>> [len(batch.rows) for batch in attack_split(run, score, split, **options)]
    [2, 1]
    """
    values: Sequence[float | None] = [None] if epsilons is None else list(epsilons)
    strengths = list(levels or values)
    size = min(batch_size, len(split))
    for first in range(0, len(split), size):
        ids = split.ids[first : first + size]
        missing = {(image, strength) for image in ids for strength in strengths if (image, strength) not in done}
        if missing:
            yield attack_batch(
                runner,
                score_fn,
                split,
                first,
                model=model,
                seed=seed,
                attack=attack,
                epsilons=epsilons,
                levels=levels,
                batch_size=batch_size,
                missing=missing,
                progress=progress,
            )


def attack_batch(
    runner: Runner,
    score_fn: ScoreFn,
    split: Split,
    first: int,
    *,
    model: str,
    seed: int,
    attack: str,
    epsilons: Sequence[float] | None,
    levels: Sequence[str] | None = None,
    batch_size: int,
    missing: Collection[tuple[str, float | str | None]],
    progress: Progress = lambda done, total: None,
) -> Batch:
    """Attack the batch of a split that begins with the image at position ``first``; see `attack_split`.

    Args:
        runner, score_fn, split: the attack, the metric and all images.
        first: position of the first image; a multiple of ``batch_size``.
        model, seed, attack, epsilons, levels, batch_size, progress: as of `attack_split`.
        missing: (image, ε), or (image, level), of the rows to return.
    """
    values: Sequence[float | None] = [None] if epsilons is None else list(epsilons)
    strengths = list(levels or values)
    images, valid, ids = scoring_batch(split, first, batch_size, size=None)
    keys = index_keys(seed, attack, len(split) + batch_size)  # the last batch is padded
    clean = shard_batch(images)
    score_fn = beside(clean, as_pytree(score_fn))
    before = np.asarray(score(score_fn, clean))
    began = time.perf_counter()
    attacked, queries = runner(clean, keys[first:][: len(images)], _part(progress, first, valid, len(split)))
    jax.block_until_ready(attacked)
    seconds = (time.perf_counter() - began) / (len(strengths) * valid)
    rows, stored = [], []
    for which, (strength, changed) in enumerate(zip(strengths, attacked, strict=True)):
        after = np.asarray(score(score_fn, changed))
        kept = to_8_bits(changed, clean)
        rounded = np.asarray(score(score_fn, kept))
        _check_finite(ids, {"the attacked image": after, "the attacked image in 8 bits": rounded})
        stored.append(np.round(np.asarray(kept)[:valid] * 255).astype(np.uint8))
        similarity = np.asarray(_similarity(clean, changed))
        change = np.asarray(changed) - images
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
    return Batch(rows, ids, images[:valid], np.asarray(attacked)[:, :valid], np.stack(stored))


def _check_finite(ids: Sequence[str], scores: Mapping[str, np.ndarray]) -> None:
    """Check that scores are finite, since a one-step attack does not compute them; else raise ``ValueError``."""
    for what, values in scores.items():
        for image, value in zip(ids, values, strict=False):
            if not np.isfinite(value):
                raise ValueError(f"score_fn gave a non-finite score, {value}, for {what} of {image}")


_similarity = jax.jit(ssim)


def index_keys(seed: int, purpose: str, count: int) -> jax.Array:
    """Return one random key per image index, derived from seed and purpose."""
    base = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) & 0x7FFFFFFF)
    return image_keys(base, count)


@jax.jit
def to_8_bits(attacked: Images, clean: Images) -> Images:
    """Convert attacked images to 8 bits: round every change down to whole steps of 1 / 255, towards the clean image.

    So no value of a stored image is further from the clean image than in the attacked image, and the stored image stays
    in every ball of the attack, for any norm. Rounding to the nearest step could leave it by 1 / 510. A change of less
    than 1 / 255 is lost. Changes within 1e-4 of a whole step, as float32 computes them, count as that step.

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
    """Shard the batch over all devices if its size is divisible; programs on the batch then run on all devices.

    >>> shard_batch(np.zeros((4, 2, 2, 3), np.float32)).shape
    (4, 2, 2, 3)
    """
    devices = jax.local_devices()
    if len(devices) == 1 or len(images) % len(devices):
        return jnp.asarray(images)
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.device_put(images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
