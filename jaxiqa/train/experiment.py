"""Train an experiment: each variant once per seed, the baseline first, then the variants that start from it."""

if __name__ == "__main__":  # before the imports below, which Ctrl-C may interrupt
    from jaxiqa.core.interrupts import quiet

    quiet()

import itertools
import json
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from rich.markup import escape

from jaxiqa import data, models
from jaxiqa.config import Experiment, Training, Variant, describe, root_folder, run_folder, trained_variants
from jaxiqa.config.identity import chain
from jaxiqa.core.files import check_folder, locked, remove_leftovers, write_text
from jaxiqa.core.processes import check_same, first_does, from_first
from jaxiqa.core.progress import messages, progress_bar, so_far
from jaxiqa.measures.correlation import srocc
from jaxiqa.models.recipe import Rate
from jaxiqa.train.additions import additions, trained
from jaxiqa.train.calibration import fit_linear
from jaxiqa.train.criteria import prune
from jaxiqa.train.examples import image_source
from jaxiqa.train.gradual import GradualPruning, gradual_pruning
from jaxiqa.train.loop import fit, raw_scores
from jaxiqa.train.losses import ABSOLUTE
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.runs import earlier_run, holds_work
from jaxiqa.train.sources import sources, unlabelled_source, unlabelled_split
from jaxiqa.train.startup import check_counts, check_splits, known_counts
from jaxiqa.train.state import merge_model, same_arrays, split_model
from jaxiqa.train.units import Line, in_label_units, lines_of
from jaxiqa.train.untrained import untrained_variant
from jaxiqa.train.variant import (
    control_tail,
    filter_images,
    frozen_stages,
    insert_blocks,
    new_metric,
    swap_parts,
)

Run = tuple[int, str]
"""Seed and name of a variant."""


def finished_runs(experiment: Experiment) -> dict[Run, dict]:
    """Return what is already trained, by seed and variant, so that only the rest is trained.

    Raises:
        ValueError: folders contain trainings of another configuration; the message names all, and which can stay.
        WriteError: the working directory cannot be written.
    """
    experiment = with_recipes(experiment)
    check_folder(root_folder(experiment))
    rows: dict[Run, dict] = {}
    others: list[str] = []
    for seed, name in itertools.product(experiment.seeds, experiment.variants):
        folder = run_folder(experiment, name, seed)
        if not folder.exists():
            continue
        with locked(folder):
            try:
                row = earlier_run(folder, describe(experiment, name, seed), chain(experiment, name))
            except ValueError as error:
                others.append(str(error))
                continue
        if row:
            rows[seed, name] = row
    if others:
        kept = [str(run_folder(experiment, name, seed)) for seed, name in rows]
        raise ValueError(
            "\n  ".join(others) + "\nChoose another --workdir, or delete or move the folders above; only they are "
            f"trained again. What can be reused is kept: {', '.join(kept) or 'nothing'}"
        )
    return rows


def load_data(experiment: Experiment, pending: list[str]) -> dict:
    """Return both splits; read every image once, so that a damaged one is reported now and not in epoch 7."""
    experiment, chosen = with_recipes(experiment), experiment.data
    if counts := known_counts(chosen):
        check_counts(experiment, counts, pending)
    splits = data.load(chosen.name, **chosen.arguments)
    check_splits(experiment, splits, pending)
    for part in ("train", "val"):
        data.validate(splits[part], uniform=experiment.model.input_size is None)
        check_same(f"data: the split {part!r}", repr((splits[part].ids, np.asarray(splits[part].mos).tolist())))
    seen = []
    for name in pending:
        training = trained_variants(experiment)[name].training
        distil = training.distil
        if distil and distil.data and (distil.data, distil.split) not in seen:
            seen.append((distil.data, distil.split))
            resized = experiment.model.input_size or training.resize
            unlabelled = unlabelled_split(f"variants.{name}", distil)
            data.validate(unlabelled, uniform=resized is None)
            check_same(f"variants.{name}.training.distil.data", repr(unlabelled.ids))
    return splits


def train_variant(
    experiment: Experiment,
    name: str,
    seed: int,
    splits: dict,
    trunks: dict,
    distances: dict,
    *,
    origin: dict[str, str | None] | None = None,
) -> dict:
    """Train one variant, or build or read one that is not trained; save it, and return the content of training.json.

    ``origin`` is stored there too: the command and the version of the code, which do not decide the parameters.
    """
    experiment = with_recipes(experiment)
    variant, folder = experiment.variants[name], run_folder(experiment, name, seed)
    described = describe(experiment, name, seed)
    if finished := first_does(lambda: earlier_run(folder, described, chain(experiment, name))):
        return finished
    first_does(lambda: remove_leftovers(folder))
    if not isinstance(variant, Variant):
        with messages.status(escape(f"{name} seed {seed}: scoring")):
            model, row = untrained_variant(experiment, name, seed, splits)
        first_does(lambda: write_text(folder / "config.json", json.dumps(described, indent=1)))
    else:
        model, row = _fitted(experiment, name, seed, splits, trunks, distances)
    row |= {"variant": name, **(origin or {})}

    def save() -> dict:
        models.save(model, folder)
        write_text(folder / "training.json", json.dumps(row, indent=1))
        return row

    return first_does(save)


def _fitted(experiment: Experiment, name: str, seed: int, splits: dict, trunks: dict, distances: dict) -> tuple:
    """Parent -> changes -> masks -> training -> score mapping; return the model and the content of training.json."""
    variant, folder = trained_variants(experiment)[name], run_folder(experiment, name, seed)
    described, training = describe(experiment, name, seed), variant.training
    epochs, batch_size, loss, select, flip = _complete(training)
    model, held = starting_model(experiment, name, seed)
    inserted = tuple(insertion.name for insertion in model.insertions)
    stages = model.backbone.order if hasattr(model, "backbone") else ()
    trunk = frozen_stages(model, training.freeze)
    parts = split_model(
        model,
        frozen=(*trunk, *held),
        batch_norm=training.batch_norm,
        precision=training.precision,
        remat=training.remat,
    )
    masks: Any = {}
    if variant.prune:
        # Frozen stages are not pruned: they could not be fine-tuned to make up for the loss.
        images = image_source(splits["train"], experiment.model.input_size)
        if variant.prune.steps > 1:
            masks = gradual_pruning(parts, variant.prune, images, epochs=epochs, seed=seed)
        else:
            with progress_bar(f"{name} seed {seed}: pruning", "steps") as bar:
                parts, masks = prune(
                    parts,
                    variant.prune,
                    images,
                    seed=seed,
                    progress=lambda step, steps, loss: bar(step, steps, f"loss {loss:.3f}"),
                )

    parts, masks = same_arrays(parts), masks if isinstance(masks, GradualPruning) else from_first(masks)
    train, validation = sources(experiment, name, parts, trunk if model.restartable else (), splits, trunks)
    whole = image_source(splits["train"], experiment.model.input_size)
    unit: dict[str, Line] = {}
    if loss in ABSOLUTE and variant.parent and not variant.tail:
        unit = lines_of(trained(experiment, variant.parent, seed), whole, train.labels(train.mos), batch_size)
        parts = in_label_units(parts, unit)
    optimizer = make_optimizer(
        parts.params,
        training,
        steps_per_epoch=train.per_epoch // batch_size,
        pretrained=frozenset(stages) - set(inserted),
    )
    # Last, after everything it describes.
    first_does(lambda: write_text(folder / "config.json", json.dumps(described, indent=1)))
    try:
        with progress_bar(f"{name} seed {seed}", "steps") as bar:
            result = fit(
                parts,
                optimizer,
                train,
                validation,
                epochs=epochs,
                batch_size=batch_size,
                loss=loss,
                flip=flip,
                masks=masks,
                seed=seed,
                folder=folder,
                select=select,
                accumulate=training.accumulate,
                unlabelled=unlabelled_source(experiment, name, splits),
                **additions(experiment, name, seed, model, train, distances, unit),
                backend=experiment.parallel,
                progress=lambda step, steps, loss, best: bar(step, steps, so_far(loss, best, select)),
            )
        score = raw_scores(parts, train.after)
        raw = score(result.params, result.batch_stats, whole if train.crops else train, batch_size)
        correlation = srocc(score(result.params, result.batch_stats, validation, batch_size), validation.mos)
        k, b = fit_linear(raw, train.mos)
    except FloatingPointError as error:
        steps = epochs * (train.per_epoch // batch_size)
        mend = f"change variants.{name}.training ({_numbers(training.learning_rate, epochs, steps)})"
        if holds_work(folder):
            mend += f", and delete {folder}, which holds the epochs before"
        raise FloatingPointError(f"{name} seed {seed}: {error}; {mend}") from error
    model = merge_model(parts, result.params, result.batch_stats)
    model.calibrate(k=k, b=b, score_range=(float(k * raw.min() + b), float(k * raw.max() + b)))
    row = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves((parts.params, parts.fixed))),
        "validation_srocc": correlation,
        "best_epoch": result.best_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
    }
    return model, row


def _numbers(rate: Rate | None, epochs: int, steps: int) -> str:
    """Return what a failed training may lack, for its error.

    >>> _numbers(1e-3, 2, 40), _numbers(((0, 1e-4), (5, 1e-5)), 1, 2)
    ('learning_rate=0.001, epochs=2: 40 steps', 'learning_rate=0.0001 at first, epochs=1: 2 steps')
    """
    first = f"{rate[0][1]} at first" if isinstance(rate, tuple) else rate
    return f"learning_rate={first}, epochs={epochs}: {steps} step{'s' * (steps != 1)}"


def _complete(
    training: Training,
) -> tuple[int, int, str, Literal["srocc", "plcc", "sum", "last"], bool | Literal["both"]]:
    """Return what `with_recipes` has set, without None."""
    assert training.epochs and training.batch_size and training.loss and training.select  # noqa: PT018
    assert training.flip is not None
    return training.epochs, training.batch_size, training.loss, training.select, training.flip


def starting_model(experiment: Experiment, name: str, seed: int) -> tuple:
    """Return the trained parent, or a new metric over the backbone's weights, with the variant's changes.

    Also return the names of the blocks that are not trained.
    """
    variant, where = trained_variants(experiment)[name], f"variants.{name}"
    if variant.parent:
        model = trained(experiment, variant.parent, seed)
    else:
        model = new_metric(experiment.model, weights=True, seed=seed)
    rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
    model = control_tail(model, variant, rngs=rngs, where=where)
    swap_parts(model, variant, where=where)
    filter_images(model, variant, where=where)
    return model, insert_blocks(model, variant, rngs=rngs, where=where)
