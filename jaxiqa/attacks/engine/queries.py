"""Run black-box attacks: score candidates, stop image by image, count queries."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxiqa.attacks.engine.gradients import begin, finish
from jaxiqa.attacks.engine.host_metric import External
from jaxiqa.attacks.engine.objective import Target
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import is_traced
from jaxiqa.core.scores import compiled_scores
from jaxiqa.core.types import Images, ScoreFn, Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QueryResult:
    """The result of a black-box attack.

    Args:
        images: the attacked images, ``b h w c``.
        scores: their scores, in the metric's units.
        queries: number of images that were scored for each image, including the clean image.
    """

    images: Images
    scores: Scores
    queries: Int[Array, " b"]


class Search(NamedTuple):
    """The state of the search of each image of a group; the first axis of every leaf is the image."""

    clean: Any
    keys: Any
    objective: Any
    state: Any  # the state of the attack
    image: Any  # the best image so far
    score: Any  # its score; NaN after the metric returned a score that is not finite
    iteration: Any


def run_queries(
    attack: Any,
    score_fn: ScoreFn,
    images: Images,
    key: Keys,
    progress: Callable[[int, int], Any] | None = None,
    *,
    chunk: int = 32,
) -> QueryResult:
    """Run a black-box attack on a batch. Each image stops when its objective is reached or its budget is used.

    The result of an image depends only on its own key and scores: an image is frozen in the iteration that reaches its
    objective. Every ``chunk`` iterations the host drops frozen images and packs the others into a batch whose size is a
    power of two, so that few sizes are compiled. The number of images attacked together is the largest whose candidates
    fit into ``batch_size``. If one image has more candidates than that, they are scored in parts.

    On the CPU, and for a `jaxiqa.attacks.engine.host_metric.from_callable` metric, the iterations run as a Python loop
    over compiled parts. The model is compiled separately, once for all black-box attacks on batches of one size. On
    accelerators a chunk is one compiled loop. Under an outer ``jit`` or ``vmap`` the whole search is one compiled loop
    without packing, in which a CPU runs convolutions slowly (jax#12868).

    Args:
        attack: a `jaxiqa.attacks.engine.query_attack.QueryAttack`.
        score_fn: ``b h w c -> b``, or a `from_callable` metric; every image such a metric scores is counted.
        images: clean images, ``b h w c`` in [0, 1].
        key: random key, or one per image.
        progress: called as ``progress(done, total)`` after every chunk, in images × iterations.
        chunk: iterations between packings; the result does not depend on it.

    Raises:
        ValueError: bad images, or a score that is not finite (under an outer trace the image is NaN instead).
    """
    given = images
    attack, function, images, key = begin(attack, score_fn, images, key)
    # Finite differences amplify the rounding of scores, and rounding depends on the batch size of a program.
    most = 1 if attack.estimates_gradient else max(1, attack.batch_size // attack.candidates)
    count, together = len(images), min(len(images), most)
    keys = image_keys(key, count)
    objective = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf, jnp.float32), (count,)), attack.objective)
    score_fn = score_fn if isinstance(score_fn, External) else function
    at_once = together * _width(attack, together)
    clean = scores = _ask_all(score_fn, images, at_once)
    everything = (images, keys, objective, scores)
    if is_traced(attack, everything):
        found = _run_traced(attack, score_fn, everything, together)
    else:
        chunk = 1 if isinstance(score_fn, External) else chunk
        found = _run_groups(attack, score_fn, everything, together, chunk, progress or (lambda done, total: None))
    attacked, scores, iterations = found
    queries = 1 + attack.candidates * iterations
    if attack.estimates_gradient:
        scores, queries = jnp.where(jnp.isnan(scores), scores, _ask_all(score_fn, attacked, at_once)), queries + 1
    if attack.estimates_gradient and isinstance(objective, Target):
        further = objective.value(scores) < objective.value(clean)
        attacked, scores = jnp.where(further[:, None, None, None], images, attacked), jnp.where(further, clean, scores)
    attacked = jnp.where(jnp.isfinite(scores)[:, None, None, None], attacked, jnp.nan)
    return QueryResult(finish(attacked, given), scores, queries)


def _run_groups(attack, score_fn, everything, together, chunk, progress):
    """Run group after group of images from Python; return the images, their scores and their iterations."""
    clean = everything[0]
    count, total = len(clean), len(clean) * attack.iterations
    answers = [np.array(clean), np.zeros(count, np.float32), np.zeros(count, np.int32)]

    def store(search, slots):
        for answer, leaf in zip(answers, (search.image, search.score, search.iteration), strict=True):
            answer[slots] = np.asarray(leaf)

    for first in range(0, count, together):
        slots = np.arange(first, min(first + together, count))  # index of the image at each place of the group
        search = _begin(attack, *jax.tree.map(lambda leaf: leaf[slots], everything))  # noqa: B023
        done = 0
        while (active := np.asarray(_active(attack, search))).any():
            size = active.sum() if isinstance(score_fn, External) else 1 << int(active.sum() - 1).bit_length()
            if size < len(slots):
                store(search, slots)
                keep = np.resize(np.flatnonzero(active), size)  # filled up by repetition: copies run alike
                search, slots = jax.tree.map(lambda leaf: leaf[keep], search), slots[keep]  # noqa: B023
            steps = min(chunk, attack.iterations - done)
            search = _advance(attack, search, score_fn, _width(attack, len(slots)), steps)
            done += steps
            progress(first * attack.iterations + min(together, count - first) * done, total)
        store(search, slots)
        progress(min(first + together, count) * attack.iterations, total)
    return tuple(map(jnp.asarray, answers))


def _advance(attack, search, score_fn, width, steps):
    if isinstance(score_fn, External) or jax.default_backend() == "cpu":
        for _ in range(steps):
            search = _step(attack, search, score_fn, width, looped=False)
        return search
    return _loop(attack, search, score_fn, steps, width=width)


@partial(jax.jit, static_argnames="width")
def _loop(attack, search, score_fn, steps, width):
    def unfinished(carry):
        return (carry[0] < steps) & _active(attack, carry[1]).any()

    def step(carry):
        return carry[0] + 1, _step(attack, carry[1], score_fn, width, looped=True)

    return jax.lax.while_loop(unfinished, step, (0, search))[1]


def _run_traced(attack, score_fn, everything, together):
    """Run all groups in one program, without reading values; the results equal those of `_run_groups`."""
    count = len(everything[0])
    groups = -(-count // together)
    places = np.resize(np.arange(count), groups * together)  # the last group is filled up with images from the start

    def run(group):
        search = _loop(attack, _begin(attack, *group), score_fn, attack.iterations, width=_width(attack, together))
        return search.image, search.score, search.iteration

    split = jax.tree.map(lambda leaf: leaf[places].reshape(groups, together, *leaf.shape[1:]), everything)
    found = jax.lax.map(run, split) if groups > 1 else jax.tree.map(lambda leaf: leaf[None], run(everything))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)


@jax.jit
def _begin(attack, clean, keys, objective, scores):
    starts, keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    state = jax.vmap(attack.start)(clean, objective.value(scores), starts)
    iteration = jnp.zeros(len(clean), jnp.int32)
    return Search(clean, keys, objective, state, clean, scores.astype(jnp.float32), iteration)


@jax.jit
def _active(attack, search):
    wanted = jnp.isfinite(search.score) & ~search.objective.reached(search.score)
    return wanted & (search.iteration < attack.iterations)


def _step(attack, search, score_fn, width, *, looped):
    """Run one iteration of every image; ``looped``: inside a compiled loop."""
    moves = _propose(attack, search)

    def ask(first):
        images = _render(attack, search, moves, first, width=width)
        if isinstance(score_fn, External):
            images = images[:, : attack.candidates - first]
        return _ask(score_fn, images.reshape(-1, *images.shape[2:])).reshape(images.shape[:2])

    parts = range(0, attack.candidates, width)
    if looped and len(parts) > 1:
        scores = jnp.moveaxis(jax.lax.map(ask, jnp.asarray(parts)), 0, 1).reshape(len(search.score), -1)
    else:
        scores = jnp.concatenate([ask(first) for first in parts], 1)
    return _accept(attack, search, moves, scores[:, : attack.candidates])


def _width(attack, together):
    """Return how many candidates of each image are scored at once; parts are equal, so that one size is compiled."""
    most = max(1, attack.batch_size // together)
    return -(-attack.candidates // -(-attack.candidates // most))


def _ask(score_fn, images):
    return score_fn(images) if isinstance(score_fn, External) else compiled_scores(score_fn, images).astype(jnp.float32)


def _ask_all(score_fn, images, at_once):
    """Score any number of images; a compiled metric always gets ``at_once`` images."""
    parts = [images[first : first + at_once] for first in range(0, len(images), at_once)]
    if not isinstance(score_fn, External):
        parts = [part[np.resize(np.arange(len(part)), at_once)] for part in parts]
    return jnp.concatenate([_ask(score_fn, part) for part in parts])[: len(images)]


@jax.jit
def _propose(attack, search):
    keys = jax.vmap(jax.random.fold_in)(search.keys, search.iteration)
    return jax.vmap(attack.propose)(search.state, search.clean, keys, search.iteration)


@partial(jax.jit, static_argnames="width")
def _render(attack, search, moves, first, width):
    picks = jnp.minimum(first + jnp.arange(width), attack.candidates - 1)
    moves = jax.tree.map(lambda leaf: leaf[:, picks], moves)
    return jax.vmap(jax.vmap(attack.render, (None, None, 0)))(search.state, search.clean, moves)


@jax.jit
def _accept(attack, search, moves, scores):
    values = jax.vmap(search.objective.value, 1, 1)(scores)
    state = jax.vmap(attack.accept)(search.state, search.clean, moves, values, search.iteration)
    if attack.estimates_gradient:
        image, score = state.image, scores.mean(1)
        if isinstance(search.objective, Target):  # the next step may overshoot: keep the nearest iterate
            nearer = search.objective.value(score) > search.objective.value(search.score)
            image = jnp.where(nearer[:, None, None, None], search.state.image, search.image)
            score = jnp.where(nearer | jnp.isnan(score), score, search.score)
    else:
        best = jax.tree.map(lambda leaf: jax.vmap(lambda x, i: x[i])(leaf, values.argmax(1)), (moves, values, scores))
        better = best[1] > search.objective.value(search.score)
        rendered = jax.vmap(attack.render)(search.state, search.clean, best[0])
        image = jnp.where(better[:, None, None, None], rendered, search.image)
        score = jnp.where(better, best[2], search.score)
    score = jnp.where(jnp.isfinite(scores).all(1), score, jnp.nan)

    new = (state, image, score, search.iteration + 1)
    old = (search.state, search.image, search.score, search.iteration)
    active = _active(attack, search)

    def unless_done(new, old):
        return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    state, image, score, iteration = jax.tree.map(unless_done, new, old)
    return search._replace(state=state, image=image, score=score, iteration=iteration)
