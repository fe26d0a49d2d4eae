"""Train an experiment: each variant once per seed, the baseline first, then the variants that start from it."""

if __name__ == "__main__":  # before the imports below, which Ctrl-C may interrupt
    from jaxiqa.core.interrupts import quiet

    quiet()

import itertools
import json
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa import data, models
from jaxiqa.config import Experiment, Training, describe, root_folder, run_folder
from jaxiqa.config.identity import chain
from jaxiqa.core.files import check_folder, locked, remove_leftovers, write_text
from jaxiqa.core.progress import progress_bar
from jaxiqa.models.activations import swapped
from jaxiqa.train.calibration import fit_linear
from jaxiqa.train.criteria import prune
from jaxiqa.train.examples import Examples, activation_source, image_source
from jaxiqa.train.gradual import gradual_pruning
from jaxiqa.train.loop import fit, raw_scores
from jaxiqa.train.runs import earlier_run, holds_work
from jaxiqa.train.startup import check_counts, check_splits, known_counts
from jaxiqa.train.state import SplitModel, digest, make_optimizer, merge_model, split_model
from jaxiqa.train.variant import (
    augmentation,
    frozen_stages,
    insert_blocks,
    needs_images,
    new_metric,
    slope_penalty,
    swap_activations,
)

Run = tuple[int, str]
"""Seed and name of a variant."""


def finished_runs(experiment: Experiment) -> dict[Run, dict]:
    """Return what is already trained, by seed and variant, so that only the rest is trained.

    Raises:
        ValueError: folders contain trainings of another configuration; the message names all, and which can stay.
        WriteError: the working directory cannot be written.
    """
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
    chosen = experiment.data
    if counts := known_counts(chosen):
        check_counts(experiment, counts, pending)
    splits = data.load(chosen.name, source=chosen.source, limit=chosen.limit, **chosen.options)
    check_splits(experiment, splits, pending)
    for part in ("train", "val"):
        data.validate(splits[part], uniform=experiment.model.input_size is None)
    return splits


def train_variant(experiment: Experiment, name: str, seed: int, splits: dict, trunks: dict, distances: dict) -> dict:
    """Parent -> blocks -> masks -> training -> score mapping -> saved model; return the content of training.json."""
    variant, folder = experiment.variants[name], run_folder(experiment, name, seed)
    training = variant.training
    described = describe(experiment, name, seed)
    if finished := earlier_run(folder, described, chain(experiment, name)):
        return finished
    remove_leftovers(folder)

    model, held = starting_model(experiment, name, seed)
    inserted = tuple(insertion.name for insertion in model.insertions)
    stages, trunk = model.backbone.order, frozen_stages(model, training.freeze)
    parts = split_model(model, frozen=(*trunk, *held), batch_norm=training.batch_norm)
    masks: Any = {}
    if variant.prune:
        # Frozen stages are not pruned: they could not be fine-tuned to make up for the loss.
        images = image_source(splits["train"], experiment.model.input_size)
        if variant.prune.steps > 1:
            masks = gradual_pruning(parts, variant.prune, images, epochs=training.epochs, seed=seed)
        else:
            with progress_bar(f"{name} seed {seed}: pruning", "steps") as bar:
                parts, masks = prune(
                    parts,
                    variant.prune,
                    images,
                    seed=seed,
                    progress=lambda step, steps, loss: bar(step, steps, f"loss {loss:.3f}"),
                )

    train, validation = sources(experiment, name, parts, trunk if model.restartable else (), splits, trunks)
    optimizer = make_optimizer(
        parts.params,
        learning_rate=training.learning_rate,
        backbone_factor=training.backbone_factor,
        decay_every=training.decay_every * (len(train) // training.batch_size),
        decay_factor=training.decay_factor,
        pretrained=frozenset(stages) - set(inserted),
    )
    write_text(folder / "config.json", json.dumps(described, indent=1))  # last, after everything it describes
    try:
        with progress_bar(f"{name} seed {seed}", "steps") as bar:
            result = fit(
                parts,
                optimizer,
                train,
                validation,
                epochs=training.epochs,
                batch_size=training.batch_size,
                loss=training.loss,
                flip=training.flip,
                masks=masks,
                seed=seed,
                folder=folder,
                **additions(training, train, distances),
                backend=experiment.parallel,
                progress=lambda step, steps, best: bar(step, steps, f"SROCC {best:.3f}"),
            )
        raw = raw_scores(parts, train.after)(result.params, result.batch_stats, train, training.batch_size)
        k, b = fit_linear(raw, train.mos)
    except FloatingPointError as error:
        numbers = f"learning_rate={training.learning_rate}, epochs={training.epochs}"
        mend = f"change variants.{name}.training ({numbers})"
        if holds_work(folder):
            mend += f", and delete {folder}, which holds the epochs before"
        raise FloatingPointError(f"{name} seed {seed}: {error}; {mend}") from error
    model = merge_model(parts, result.params, result.batch_stats)
    model.calibrate(k=k, b=b, score_range=(float(k * raw.min() + b), float(k * raw.max() + b)))
    models.save(model, folder)
    row = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves((parts.params, parts.fixed))),
        "validation_srocc": result.validation_srocc,
        "best_epoch": result.best_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
    }
    write_text(folder / "training.json", json.dumps(row, indent=1))
    return row


def starting_model(experiment: Experiment, name: str, seed: int) -> tuple:
    """Return the trained parent, or a new metric over the backbone's weights, with the variant's changes.

    Also return the names of the blocks that are not trained.
    """
    variant = experiment.variants[name]
    if variant.parent:
        folder = run_folder(experiment, variant.parent, seed)
        with locked(folder, wait=60.0):  # another process may be reading it too
            model = models.load_run(folder)
    else:
        model = new_metric(experiment.model, weights=True, seed=seed)
    swap_activations(model, variant, where=f"variants.{name}")
    rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
    return model, insert_blocks(model, variant, rngs=rngs, where=f"variants.{name}")


def sources(
    experiment: Experiment, name: str, parts: SplitModel, trunk: tuple[str, ...], splits: dict, trunks: dict
) -> tuple:
    """Return training and validation examples: images, or the output of a frozen trunk, computed once.

    Variants with the same trunk share it through ``trunks``, which holds the last two.
    """
    training = experiment.variants[name].training
    images = {part: image_source(splits[part], experiment.model.input_size) for part in ("train", "val")}
    if not trunk or needs_images(experiment.variants[name]):
        return images["train"], images["val"]
    activations = swapped(merge_model(parts, parts.params, parts.batch_stats))
    key = (training.flip, digest(parts, trunk), activations.get("backbone"))
    if key not in trunks:
        while len(trunks) > 1:
            trunks.pop(next(iter(trunks)))
        with progress_bar(f"{name}: frozen stages", "images") as bar:
            trunks[key] = tuple(
                activation_source(parts, source, trunk[-1], flip=flip, batch_size=training.batch_size, progress=bar)
                for source, flip in ((images["train"], training.flip), (images["val"], False))
            )
    return trunks[key]


def additions(training: Training, train: Examples, distances: dict) -> dict:
    """Return what is added to plain training, as arguments of `fit`: attacked copies, and a penalty on steep scores."""
    added: dict = {"attacked_mode": training.attacked_mode}
    if chosen := training.adversarial:
        low, high = (float(label) for label in train.standardised(np.array([train.mos.min(), train.mos.max()])))
        added["augment"] = augmentation(chosen, low=low, high=high, distance=distances.get(chosen.distance))
    if penalty := training.norm_penalty:
        added["penalty"] = slope_penalty(penalty)
    return added
