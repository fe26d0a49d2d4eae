"""The training loop: epochs, validation, the best epoch, checkpoints, and resume."""

import json
import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxiqa.core.files import write_text, writing
from jaxiqa.core.interrupts import stop_signal
from jaxiqa.data.pipeline import training_batches
from jaxiqa.measures.correlation import plcc, srocc
from jaxiqa.train.checkpoint import Checkpoints
from jaxiqa.train.divergence import check_scores, check_weights, rms, unjudged
from jaxiqa.train.examples import Examples
from jaxiqa.train.gradual import GradualPruning
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.optimizer import averaged
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.pruning import apply_masks
from jaxiqa.train.scalars import scalars
from jaxiqa.train.state import SplitModel, TrainState, Tree, merge_model, outputs_of, start
from jaxiqa.train.step import DEFAULTS, Augment, Penalty, make_step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`: the parameters of the best epoch, and its numbers."""

    params: Tree
    batch_stats: Tree
    best_epoch: int
    best_correlation: float
    """On the validation images, of the kind that decides the best epoch."""
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
    flip: bool | Literal["both"],
    masks: Tree | GradualPruning,
    seed: int,
    folder: Path | str,
    select: Literal["srocc", "plcc", "sum"] = "srocc",
    accumulate: int = 1,
    augment: Augment | None = None,
    penalty: Penalty | None = None,
    unlabelled: Examples | None = None,
    attacked_mode: str = "eval",
    backend: str = "pmap",
    devices: list | None = None,
    progress: Callable[[int, int, float, float], None] = lambda step, steps, loss, best: None,
) -> FitResult:
    """Train, and keep the epoch with the highest correlation on the validation images.

    Called again with the same arguments and folder after a kill, it resumes from the last checkpoint and ends with the
    same parameters, bit for bit. On SIGTERM and Ctrl-C it saves the current step and exits.

    Args:
        parts: the metric, from `jaxiqa.train.state.split_model`.
        optimizer: see `jaxiqa.train.optimizer.make_optimizer`. If it keeps a moving average of the weights, that is
            validated and returned.
        train: examples with ``mos``, which are converted to their unit here.
        validation: examples that decide the best epoch.
        epochs: passes over ``train``.
        batch_size: over all devices together.
        loss: a key of `LOSSES`.
        flip: mirror half of the examples; "both": also turn half of them upside down.
        masks: pruning masks over ``parts.params``, or the steps of a gradual pruning. Then the result is the best epoch
            after its last step.
        seed: of shuffling and flipping, and of the keys passed to ``augment``.
        folder: for ``checkpoints/``, ``metrics.jsonl`` (one line per epoch) and ``tensorboard/``
            (`jaxiqa.train.scalars`).
        select: the correlation that decides the best epoch; "sum": of both.
        accumulate: parts of a batch, see `jaxiqa.train.step.make_step`.
        augment: changes each batch before the step, see `jaxiqa.train.step.Augment`; its labels are in the
            unit of ``train``.
        penalty: is added to the loss, see `jaxiqa.train.step.Penalty`.
        unlabelled: images without labels for ``penalty``, as many in each step as labelled ones.
        attacked_mode: mode of batch norms in the score function of both, "eval" or "train".
        backend: ``"pmap"`` or ``"shard_map"``.
        devices: all local ones by default.
        progress: called after each step with (steps done, of how many, loss of the step before, best correlation).

    Raises:
        FloatingPointError: the loss is not finite, or weights or statistics of batch norms exploded; the message names
            the step. Or no epoch's validation scores could be judged: not finite, spread by over 1e6, or equal.
        WriteError: the folder cannot be written; saved files stay.
        ValueError: fewer training examples than ``batch_size``, or stored activations where images are needed.
    """
    if train.after and (augment or penalty):
        raise ValueError(f"train holds the output of {train.after!r}; attacks and penalties need images")
    if train.per_epoch < batch_size:
        raise ValueError(f"batch_size={batch_size} is larger than the training set ({train.per_epoch} examples)")
    per_epoch = train.per_epoch // batch_size
    total, folder = epochs * per_epoch, Path(folder)

    step = make_step(
        parts,
        LOSSES[loss],
        optimizer,
        after=train.after,
        items=bool(train.crops),
        accumulate=accumulate,
        axis_name=AXIS,
        attacked_mode=attacked_mode,
    )
    step = data_parallel(step, backend=backend, devices=devices)
    gradual = masks if isinstance(masks, GradualPruning) else None
    constants: dict[str, Any] = {"fixed": parts.fixed, "other": parts.other, "masks": {} if gradual else masks}
    constants |= {"augment": augment or DEFAULTS["augment"], "penalty": penalty or DEFAULTS["penalty"], "seed": seed}
    score = raw_scores(parts, validation.after)

    with (
        writing(folder),
        Checkpoints(folder / "checkpoints") as checkpoints,
        stop_signal() as stopping,
        ExitStack() as leaving,
    ):
        state, at_start = start(parts, optimizer), rms(parts.params)
        if gradual:
            state = gradual.untouched(state)
        restored = checkpoints.restore(state)
        if restored:
            state = restored[1]
            log.info("resuming after step %d of %d", int(state.step), total)
        done = int(state.step)
        history = _metrics_until(folder / "metrics.jsonl", done // per_epoch)
        write_scalars = leaving.enter_context(scalars(folder, history))
        best = float(state.best_correlation)
        batches = training_batches(
            train.fetch,
            len(train),
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            crops=train.crops,
            patches=train.patches,
            start=done,
        )
        extra = unlabelled and training_batches(
            unlabelled.fetch,
            len(unlabelled),
            batch_size=batch_size,
            seed=seed + 1,  # other images than the labelled ones of the same step
            flip=flip,
            crops=unlabelled.crops,
            patches=unlabelled.patches,
            start=done,
        )
        losses, value = [], jnp.float32(jnp.nan)
        began = time.perf_counter()
        while done < total:
            if gradual and done % per_epoch == 0:
                state = gradual.advance(state, done // per_epoch)
                best, began = float(state.best_correlation), time.perf_counter()
            batch = next(batches)
            labels = {name: train.labels(batch[name]) for name in ("mos", "region_mos") if name in batch}
            more = {"unlabelled": next(extra)["image"]} if extra else {}
            before, (state, value) = value, step(state, constants, batch | labels | more)
            losses.append(value)
            done += 1
            progress(done, total, float(before), best)  # not the loss of the step that still runs
            if done % per_epoch == 0:
                _check_finite(losses, done)
                seconds = time.perf_counter() - began
                check_weights(at_start, state.params, state.batch_stats, done)
                kept = kept_params(state, constants["masks"])
                predictions = score(kept, state.batch_stats, validation, batch_size)
                row = _row(state, done // per_epoch, per_epoch, predictions, validation.mos, seconds)
                state = _end_epoch(state, row, kept, select)
                best = float(state.best_correlation)
                if not int(state.best_epoch):
                    check_scores(predictions, done, total)
                history.append(row)
                write_text(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
                write_scalars(row)
                checkpoints.save(done, state)
                losses, began = [], time.perf_counter()
            if stopping:
                _check_finite(losses, done)
                if done % per_epoch:
                    checkpoints.save(done, state)
                text = f"step {done} of {total} is saved; run the same command to resume"
                raise KeyboardInterrupt(text) if signal.SIGINT in stopping else SystemExit(f"stopped; {text}")

    if not int(state.best_epoch):  # the run was stopped after its last step
        check_scores(
            score(kept_params(state, constants["masks"]), state.batch_stats, validation, batch_size), total, total
        )
    return FitResult(
        state.best_params,
        state.best_batch_stats,
        int(state.best_epoch),
        float(state.best_correlation),
        median(row["seconds"] for row in history) if history else float("nan"),
    )


def raw_scores(parts: SplitModel, after: str | None) -> Callable[[Tree, Tree, Examples, int], np.ndarray]:
    """Build ``(params, batch_stats, source, batch_size) -> uncalibrated scores`` in inference mode; compiled once."""

    @jax.jit
    def score(params: Tree, batch_stats: Tree, fixed: Tree, inputs: jax.Array) -> jax.Array:
        model = merge_model(replace(parts, fixed=fixed), params, batch_stats)
        return outputs_of(model, inputs, after=after)["score"]

    def all_scores(params: Tree, batch_stats: Tree, source: Examples, batch_size: int) -> np.ndarray:
        return np.concatenate(
            [
                np.asarray(score(params, batch_stats, parts.fixed, jnp.asarray(inputs)))[:valid]
                for inputs, valid in source.in_order(batch_size)
            ]
        )

    return all_scores


def kept_params(state: TrainState, masks: Tree) -> Tree:
    """Return the parameters to validate and keep: the moving average if the optimiser has one."""
    average = averaged(state.optimizer)
    return state.params if average is None else apply_masks(average, state.masks or masks)


def _row(
    state: TrainState, epoch: int, per_epoch: int, predictions: np.ndarray, mos: np.ndarray, seconds: float
) -> dict[str, Any]:
    why = unjudged(predictions)
    if why:
        log.warning("epoch %d: %s; it cannot be the best epoch", epoch, why)
    return {
        "epoch": epoch,
        "step": int(state.step),
        "loss": float(state.loss_sum) / per_epoch,
        "validation_srocc": None if why else srocc(predictions, mos),
        "validation_plcc": None if why else plcc(predictions, mos),
        "seconds": seconds,
    }


def _end_epoch(state: TrainState, row: dict[str, Any], kept: Tree, select: str) -> TrainState:
    state = replace(state, loss_sum=jnp.float32(0))
    chosen = ("srocc", "plcc") if select == "sum" else (select,)
    found = [row[f"validation_{name}"] for name in chosen]
    if None in found or not (correlation := sum(found)) > float(state.best_correlation):
        return state
    params, batch_stats = jax.tree.map(jnp.copy, (kept, state.batch_stats))
    return replace(
        state,
        best_params=params,
        best_batch_stats=batch_stats,
        best_correlation=jnp.float32(correlation),
        best_epoch=jnp.int32(row["epoch"]),
    )


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
            rows[int(row["epoch"])] = {**row, "step": int(row["step"]), "seconds": float(row["seconds"])}
        except (ValueError, TypeError, KeyError):
            log.warning("%s: a line cannot be read: %.60s", path, line)
    finished = range(1, epoch + 1)
    if lost := [number for number in finished if number not in rows]:
        log.warning("%s: epochs %s are missing; the training itself resumes exactly", path, lost)
    return [rows[number] for number in finished if number in rows]
