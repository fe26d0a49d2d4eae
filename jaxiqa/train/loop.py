"""The training loop: epochs, validation, the best epoch, checkpoints, and resume."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxiqa.core.files import write_text, writing
from jaxiqa.data.pipeline import training_batches
from jaxiqa.measures.correlation import srocc
from jaxiqa.train.checkpoint import Checkpoints
from jaxiqa.train.divergence import check_scores, check_weights, rms, unjudged
from jaxiqa.train.examples import Examples
from jaxiqa.train.gradual import GradualPruning
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.state import SplitModel, TrainState, Tree, merge_model, start
from jaxiqa.train.step import DEFAULTS, Augment, Penalty, make_step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`: the parameters of the best epoch, and its numbers."""

    params: Tree
    batch_stats: Tree
    best_epoch: int
    validation_srocc: float
    seconds_per_epoch: float
    """Median over epochs, optimisation steps only: no validation, checkpoint or frozen trunk."""


def fit(
    parts: SplitModel,
    optimizer: optax.GradientTransformation,
    train: Examples,
    validation: Examples,
    *,
    epochs: int,
    batch_size: int,
    loss: str,
    flip: bool,
    masks: Tree | GradualPruning,
    seed: int,
    folder: Path,
    augment: Augment | None = None,
    penalty: Penalty | None = None,
    attacked_mode: str = "eval",
    backend: str = "pmap",
    devices: list | None = None,
    progress: Callable[[int, int, float], None] = lambda step, steps, best: None,
) -> FitResult:
    """Train, and keep the epoch with the highest validation SROCC.

    Called again with the same arguments and folder after a kill, it resumes from the last checkpoint and ends with the
    same parameters, bit for bit. On SIGTERM and Ctrl-C it saves the current step and exits.

    Args:
        parts: the metric, from `jaxiqa.train.state.split_model`.
        optimizer: see `jaxiqa.train.state.make_optimizer`.
        train: examples with ``mos``, which are standardised here.
        validation: examples that decide the best epoch.
        epochs: passes over ``train``.
        batch_size: over all devices together.
        loss: a key of `LOSSES`.
        flip: mirror half of the examples.
        masks: pruning masks over ``parts.params``, or the steps of a gradual pruning. Then the result is the best epoch
            after its last step.
        seed: of shuffling and flipping, and of the keys passed to ``augment``.
        folder: for ``checkpoints/`` and ``metrics.jsonl`` (one line per epoch).
        augment: changes each batch before the step, see `jaxiqa.train.step.Augment`; its labels are the standardised
            ones.
        penalty: is added to the loss, see `jaxiqa.train.step.Penalty`.
        attacked_mode: mode of batch norms in the score function of both, "eval" or "train".
        backend: ``"pmap"`` or ``"shard_map"``.
        devices: all local ones by default.
        progress: called after each step with (steps done, number of steps, best SROCC so far).

    Raises:
        FloatingPointError: the loss is not finite, or weights or statistics of batch norms exploded; the message names
            the step. Or no epoch's validation scores could be judged: not finite, spread by over 1e6, or equal.
        WriteError: the folder cannot be written; saved files stay.
        ValueError: fewer training examples than ``batch_size``, or stored activations where images are needed.
    """
    if train.after and (augment or penalty):
        raise ValueError(f"train holds the output of {train.after!r}; attacks and penalties need images")
    if len(train) < batch_size:
        raise ValueError(f"batch_size={batch_size} is larger than the training set ({len(train)} examples)")
    per_epoch = len(train) // batch_size
    total = epochs * per_epoch

    step = make_step(parts, LOSSES[loss], optimizer, after=train.after, axis_name=AXIS, attacked_mode=attacked_mode)
    step = data_parallel(step, backend=backend, devices=devices)
    gradual = masks if isinstance(masks, GradualPruning) else None
    constants: dict[str, Any] = {"fixed": parts.fixed, "other": parts.other, "masks": {} if gradual else masks}
    constants |= {"augment": augment or DEFAULTS["augment"], "penalty": penalty or DEFAULTS["penalty"], "seed": seed}
    score = raw_scores(parts, validation.after)

    with writing(folder), Checkpoints(folder / "checkpoints") as checkpoints, stop_signal() as stopping:
        state, at_start = start(parts, optimizer), float(rms(parts.params))
        if gradual:
            state = gradual.untouched(state)
        restored = checkpoints.restore(state)
        if restored:
            state = restored[1]
            log.info("resuming after step %d of %d", int(state.step), total)
        done = int(state.step)
        history = _metrics_until(folder / "metrics.jsonl", done // per_epoch)
        best = float(state.best_srocc)
        batches = training_batches(train.fetch, len(train), batch_size=batch_size, seed=seed, flip=flip, start=done)
        losses: list[jax.Array] = []
        began = time.perf_counter()
        while done < total:
            if gradual and done % per_epoch == 0:
                state = gradual.advance(state, done // per_epoch)
                best, began = float(state.best_srocc), time.perf_counter()
            batch = next(batches)
            state, value = step(state, constants, {**batch, "mos": train.standardised(batch["mos"])})
            losses.append(value)
            done += 1
            progress(done, total, best)
            if done % per_epoch == 0:
                _check_finite(losses, done)
                seconds = time.perf_counter() - began
                check_weights(at_start, state.params, state.batch_stats, done)
                predictions = score(state.params, state.batch_stats, validation, batch_size)
                state, row = _end_epoch(state, done // per_epoch, per_epoch, predictions, validation.mos, seconds)
                best = float(state.best_srocc)
                if not int(state.best_epoch):
                    check_scores(predictions, done, total)
                history.append(row)
                write_text(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
                checkpoints.save(done, state)
                losses, began = [], time.perf_counter()
            if stopping:
                _check_finite(losses, done)
                if done % per_epoch:
                    checkpoints.save(done, state)
                text = f"step {done} of {total} is saved; run the same command to resume"
                raise KeyboardInterrupt(text) if signal.SIGINT in stopping else SystemExit(f"stopped; {text}")

    if not int(state.best_epoch):  # the run was stopped after its last step
        check_scores(score(state.params, state.batch_stats, validation, batch_size), total, total)
    return FitResult(
        state.best_params,
        state.best_batch_stats,
        int(state.best_epoch),
        float(state.best_srocc),
        median(row["seconds"] for row in history) if history else float("nan"),
    )


def raw_scores(parts: SplitModel, after: str | None) -> Callable[[Tree, Tree, Examples, int], np.ndarray]:
    """Build ``(params, batch_stats, source, batch_size) -> uncalibrated scores`` in inference mode; compiled once."""

    @jax.jit
    def score(params: Tree, batch_stats: Tree, fixed: Tree, inputs: jax.Array) -> jax.Array:
        model = merge_model(replace(parts, fixed=fixed), params, batch_stats)
        return (model.outputs_from(inputs, after) if after else model.outputs(inputs))["score"]

    def all_scores(params: Tree, batch_stats: Tree, source: Examples, batch_size: int) -> np.ndarray:
        return np.concatenate(
            [
                np.asarray(score(params, batch_stats, parts.fixed, jnp.asarray(inputs)))[:valid]
                for inputs, valid in source.in_order(batch_size)
            ]
        )

    return all_scores


def _end_epoch(
    state: TrainState, epoch: int, per_epoch: int, predictions: np.ndarray, mos: np.ndarray, seconds: float
) -> tuple[TrainState, dict]:
    why = unjudged(predictions)
    correlation = None if why else srocc(predictions, mos)
    if why:
        log.warning("epoch %d: %s; it cannot be the best epoch", epoch, why)
    row = {
        "epoch": epoch,
        "step": int(state.step),
        "loss": float(state.loss_sum) / per_epoch,
        "validation_srocc": correlation,
        "seconds": seconds,
    }
    state = replace(state, loss_sum=jnp.float32(0))
    if correlation is not None and correlation > float(state.best_srocc):
        copies = jax.tree.map(jnp.copy, (state.params, state.batch_stats))
        state = replace(
            state,
            best_params=copies[0],
            best_batch_stats=copies[1],
            best_srocc=jnp.float32(correlation),
            best_epoch=jnp.int32(epoch),
        )
    return state, row


def _check_finite(losses: list[jax.Array], done: int) -> None:
    values = np.asarray(jax.device_get(losses), np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        step = done - len(values) + int(bad[0]) + 1
        raise FloatingPointError(
            f"the loss is {values[bad[0]]} at step {step}; earlier checkpoints are kept. Try a lower learning_rate"
        )


def _metrics_until(path: Path, epoch: int) -> list[dict]:
    """Return the rows of finished epochs; drop an epoch that will run again, and name lost ones."""
    rows = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            rows[int(row["epoch"])] = {**row, "seconds": float(row["seconds"])}
        except (ValueError, TypeError, KeyError):
            log.warning("%s: a line cannot be read: %.60s", path, line)
    finished = range(1, epoch + 1)
    if lost := [number for number in finished if number not in rows]:
        log.warning("%s: epochs %s are missing; the training itself resumes exactly", path, lost)
    return [rows[number] for number in finished if number in rows]


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """Yield the list of SIGTERM and SIGINT received, so that the loop can save and exit; a second one ends it at once.

    Only the main thread can handle signals. If SIGINT is ignored or has another handler, it is not changed.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    watched = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        watched.append(signal.SIGINT)
    before = {number: signal.getsignal(number) for number in watched}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        came.append(number)
        restore()

    for number in watched:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        restore()
