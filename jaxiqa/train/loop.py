"""The training loop: epochs, validation, the best epoch, checkpoints, and resume."""

import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxiqa.core.allocator import return_freed_memory
from jaxiqa.core.files import writing
from jaxiqa.core.interrupts import stop_signal
from jaxiqa.core.processes import first_does, from_first, gathered, in_turn, is_first, local
from jaxiqa.data.pipeline import training_batches
from jaxiqa.train.checkpoint import Checkpoints
from jaxiqa.train.divergence import check_scores, check_weights, rms
from jaxiqa.train.examples import Examples
from jaxiqa.train.gradual import GradualPruning
from jaxiqa.train.history import epoch_row, rows_until, write_rows
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.optimizer import averaged
from jaxiqa.train.parallel import AXIS, stoppable
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
    select: Literal["srocc", "plcc", "sum", "last"] = "srocc",
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

    Over several processes (`jaxiqa.core.processes`), all call it with the same arguments and get the same result. Each
    reads its share of every batch, and process 0 writes. A signal to one of them stops all after the same step.

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
        select: the correlation that decides the best epoch; "sum": of both; "last": the last epoch is kept.
        accumulate: parts of a batch, see `jaxiqa.train.step.make_step`.
        augment: changes each batch before the step, see `jaxiqa.train.step.Augment`; its labels are in the
            unit of ``train``.
        penalty: is added to the loss, see `jaxiqa.train.step.Penalty`.
        unlabelled: images without labels for ``penalty``, as many in each step as labelled ones.
        attacked_mode: mode of batch norms in the score function of both, "eval" or "train".
        backend: ``"pmap"`` or, over several processes too, ``"shard_map"``.
        devices: all by default, also those of other processes.
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
    share = jax.process_index(), jax.process_count()

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
    step = stoppable(step, backend=backend, devices=devices)
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
        else:
            state = from_first(state)
        done = int(state.step)
        history = rows_until(folder, done // per_epoch)
        nowhere = nullcontext(lambda row: None)
        write_scalars = leaving.enter_context(scalars(folder, history) if is_first() else nowhere)
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
            share=share,
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
            share=share,
        )
        losses, value = [], jnp.float32(jnp.nan)
        came = 0
        began = time.perf_counter()
        while done < total:
            if gradual and done % per_epoch == 0:
                state = gradual.advance(state, done // per_epoch)
                best, began = float(state.best_correlation), time.perf_counter()
            batch = next(batches)
            labels = {name: train.labels(batch[name]) for name in ("mos", "region_mos") if name in batch}
            more = {"unlabelled": next(extra)["image"]} if extra else {}
            before, (state, value, came) = value, step(state, constants, batch | labels | more, stopping)
            losses.append(value)
            done += 1
            progress(done, total, float(before), best)  # not the loss of the step that still runs
            if jax.process_count() == 1:
                came = max(stopping, default=0)  # no other process has to stop after the same step
            if done % per_epoch == 0:
                _check_finite(losses, done)
                seconds = time.perf_counter() - began
                check_weights(at_start, state.params, state.batch_stats, done)
                return_freed_memory()  # the next program has arrays of other sizes
                kept = kept_params(state, constants["masks"])
                predictions = score(kept, state.batch_stats, validation, batch_size)
                row = epoch_row(state, done // per_epoch, per_epoch, predictions, validation.mos, seconds)
                state = _end_epoch(state, row, kept, select)
                best = float(state.best_correlation)
                if not int(state.best_epoch):
                    check_scores(predictions, done, total)
                history.append(row)
                first_does(lambda: write_rows(folder, history))
                write_scalars(row)
                checkpoints.save(done, state)
                return_freed_memory()
                losses, began = [], time.perf_counter()
                came = int(gathered(np.int32(max(stopping, default=0))).max())
            if came:
                _check_finite(losses, done)
                if done % per_epoch:
                    checkpoints.save(done, state)
                text = f"step {done} of {total} is saved; run the same command to resume"
                raise KeyboardInterrupt(text) if came == signal.SIGINT else SystemExit(f"stopped; {text}")

    if not int(state.best_epoch):  # the run was stopped after its last step
        check_scores(
            score(kept_params(state, constants["masks"]), state.batch_stats, validation, batch_size), total, total
        )
    return FitResult(
        local(state.best_params),
        local(state.best_batch_stats),
        int(state.best_epoch),
        float(state.best_correlation),
        median(row["seconds"] for row in history) if history else float("nan"),
    )


def raw_scores(parts: SplitModel, after: str | None) -> Callable[[Tree, Tree, Examples, int], np.ndarray]:
    """Build ``(params, batch_stats, source, batch_size) -> uncalibrated scores`` in inference mode; compiled once.

    Several processes share each batch out; all get all scores.
    """
    outputs = raw_outputs(parts, after, ("score",))
    return lambda *given: outputs(*given)[:, 0]


def raw_outputs(
    parts: SplitModel, after: str | None, names: tuple[str, ...]
) -> Callable[[Tree, Tree, Examples, int], np.ndarray]:
    """Build the same for several outputs of the metric: a column for each."""

    @jax.jit
    def score(params: Tree, batch_stats: Tree, fixed: Tree, inputs: jax.Array) -> jax.Array:
        model = merge_model(replace(parts, fixed=fixed), params, batch_stats)
        found = outputs_of(model, inputs, after=after)
        return jnp.stack([found[name] for name in names], axis=1)

    def all_scores(params: Tree, batch_stats: Tree, source: Examples, batch_size: int) -> np.ndarray:
        size = max(1, batch_size // jax.process_count())
        weights = local((params, batch_stats, parts.fixed))

        def scores(number: int) -> np.ndarray:
            return np.asarray(score(*weights, jnp.asarray(source.inputs(number, size))))

        return np.concatenate([*in_turn(scores, math.ceil(len(source) / size))])[: len(source)]

    return all_scores


def kept_params(state: TrainState, masks: Tree) -> Tree:
    """Return the parameters to validate and keep: the moving average if the optimiser has one."""
    average = averaged(state.optimizer)
    return state.params if average is None else apply_masks(average, state.masks or masks)


def _end_epoch(state: TrainState, row: dict[str, Any], kept: Tree, select: str) -> TrainState:
    state = replace(state, loss_sum=jnp.float32(0))
    chosen = {"sum": ("srocc", "plcc"), "last": ("srocc",)}.get(select, (select,))
    found = [row[f"validation_{name}"] for name in chosen]
    if None in found or not (sum(found) > float(state.best_correlation) or select == "last"):
        return state
    params, batch_stats = jax.tree.map(jnp.copy, (kept, state.batch_stats))
    return replace(
        state,
        best_params=params,
        best_batch_stats=batch_stats,
        best_correlation=jnp.float32(sum(found)),
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
