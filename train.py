"""Train the metrics of an experiment: first the baseline, then the variants that start from it.

Each variant is trained once per seed into WORKDIR/VARIANT/seedN, which holds config.json, metrics.jsonl,
checkpoints/ and, at the end, the model and training.json. Kill it whenever you like: the same command goes on
exactly where it was.
"""

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

from jaxiqa.config import (
    Experiment,
    Training,
    Variant,
    check_experiment,
    describe,
    from_command_line,
    root_folder,
    run_folder,
)


def main() -> None:
    experiment = from_command_line(__doc__)
    check_experiment(experiment)
    from jaxiqa.evaluation.startup import check_evaluation_start
    from jaxiqa.files import locked
    from jaxiqa.terminal import console, start_jax

    start_jax()
    began = time.perf_counter()
    check_evaluation_start(experiment)
    distances = load_distances(experiment)
    splits = load_data(experiment)
    trunks: dict = {}
    for seed, name in itertools.product(experiment.seeds, experiment.variants):
        with locked(run_folder(experiment, name, seed)):
            row = train_variant(experiment, name, seed, splits, trunks, distances)
        console.print(
            f"[bold]{name}[/] seed {seed}: validation SROCC {row['validation_srocc']:.4f} "
            f"at epoch {row['best_epoch']}, {row['seconds_per_epoch']:.1f} s per epoch"
        )
    console.print(
        f"trained in {(time.perf_counter() - began) / 60:.1f} minutes; models are in {root_folder(experiment)}"
    )


def load_data(experiment: Experiment) -> dict:
    """Both splits, every picture read once, so that a bad one is reported now and not in epoch 7."""
    from jaxiqa import data

    chosen = experiment.data
    splits = data.load(chosen.name, source=chosen.source, limit=chosen.limit, **chosen.options)
    for part in ("train", "val"):
        if part not in splits:
            raise ValueError(f"data.name={chosen.name!r} has no split {part!r}, only {', '.join(splits)}")
        data.validate(splits[part], uniform=experiment.model.input_size is None)
    return splits


def load_distances(experiment: Experiment) -> dict:
    """The networks that lower the labels of attacked pictures, read before anything is trained on them."""
    from jaxiqa import data
    from jaxiqa.models import auxiliary

    found: dict = {}
    for name, variant in experiment.variants.items():
        chosen = variant.training.adversarial and variant.training.adversarial.distance
        if not chosen or chosen in found:
            continue
        files = {"weights": data.resolve(chosen.weights)}
        if chosen.backbone_weights:
            files["backbone_weights"] = data.resolve(chosen.backbone_weights)
        for argument, path in files.items():
            if not path.is_file():
                where = f"variants.{name}.training.adversarial.distance.{argument}"
                raise FileNotFoundError(
                    f"{where}: {path} does not exist; jaxiqa.models.auxiliary says what it must hold"
                )
        found[chosen] = auxiliary.load(chosen.name, **files)
    return found


def train_variant(experiment: Experiment, name: str, seed: int, splits: dict, trunks: dict, distances: dict) -> dict:
    """Parent -> block -> masks -> training -> score mapping -> saved model; returns the content of training.json."""
    import jax

    from jaxiqa import models
    from jaxiqa.files import write_text
    from jaxiqa.pruning import apply_masks, make_masks
    from jaxiqa.terminal import progress_bar
    from jaxiqa.train.calibration import fit_linear
    from jaxiqa.train.loop import fit, raw_scores
    from jaxiqa.train.state import make_optimizer, put_together, take_apart

    variant, folder = experiment.variants[name], run_folder(experiment, name, seed)
    training = variant.training
    described = describe(experiment, name, seed)
    if finished := earlier_run(folder, described):
        return finished
    write_text(folder / "config.json", json.dumps(described, indent=1))

    model = starting_model(experiment, variant, seed)
    inserted = tuple(insertion.name for insertion in model.insertions)
    stages = model.backbone.order
    trunk = stages[: model.backbone.span(training.freeze)[1] + 1] if training.freeze else ()
    if buried := set(inserted) & set(trunk):
        raise ValueError(f"variants.{name}: {buried} would not train, being before freeze={training.freeze!r}")
    held = inserted[-1:] if variant.block and not variant.block.trainable else ()
    parts = take_apart(model, frozen=(*trunk, *held), batch_norm=training.batch_norm)
    masks = {}
    if variant.prune:
        # Frozen stages are left whole: they could not be fine-tuned to make up for what is missing.
        masks = make_masks(parts.params, amount=variant.prune.amount, criterion=variant.prune.criterion)
        parts = replace(parts, params=apply_masks(parts.params, masks))

    train, validation = sources(experiment, name, parts, trunk, splits, trunks)
    optimizer = make_optimizer(
        parts.params,
        learning_rate=training.learning_rate,
        backbone_factor=training.backbone_factor,
        decay_every=training.decay_every * (len(train) // training.batch_size),
        decay_factor=training.decay_factor,
        pretrained=frozenset(stages) - set(inserted),
    )
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
    model = put_together(parts, result.params, result.batch_stats)
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


def earlier_run(folder: Path, described: dict) -> dict | None:
    """The result of a finished run of the same configuration; an error if the folder holds another one."""
    if (folder / "config.json").exists():
        before = json.loads((folder / "config.json").read_text())
        if before != described:
            fields = [key for key in described if before.get(key) != described[key]]
            raise SystemExit(
                f"{folder} holds a run of another configuration (differs in {', '.join(fields)}); "
                "choose another --workdir, or delete that folder"
            )
    finished = folder / "training.json"
    return json.loads(finished.read_text()) if finished.exists() else None


def starting_model(experiment: Experiment, variant: Variant, seed: int):
    """The trained parent, or a new metric over the backbone's weights; with the variant's block in its place."""
    import jax
    from flax import nnx

    from jaxiqa import data, models

    if variant.parent:
        model = models.load_run(run_folder(experiment, variant.parent, seed))
    else:
        chosen = experiment.model
        model = models.build(
            chosen.backbone,
            width=chosen.width,
            taps=chosen.taps,
            input_size=chosen.input_size,
            backbone_weights=data.resolve(chosen.weights) if chosen.weights else None,
            seed=seed,
        )
    if variant.block:
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
        models.harden(model, variant.block.where, variant.block.kind, rngs=rngs, **variant.block.options)
    return model


def sources(experiment: Experiment, name: str, parts, trunk: tuple[str, ...], splits: dict, trunks: dict) -> tuple:
    """Training and validation examples: pictures, or what a frozen trunk makes of them, computed once.

    Variants with the same trunk share it through ``trunks``, which keeps the last two.
    """
    from jaxiqa.terminal import progress_bar
    from jaxiqa.train.sources import activation_source, image_source
    from jaxiqa.train.state import digest

    training = experiment.variants[name].training
    pictures = {part: image_source(splits[part], experiment.model.input_size) for part in ("train", "val")}
    if not trunk or training.adversarial or training.norm_penalty:  # both of which change or move pictures
        return pictures["train"], pictures["val"]
    key = (training.flip, digest(parts, trunk))
    if key not in trunks:
        while len(trunks) > 1:
            trunks.pop(next(iter(trunks)))
        with progress_bar(f"{name}: frozen stages", "images") as bar:
            trunks[key] = tuple(
                activation_source(parts, images, trunk[-1], flip=flip, batch_size=training.batch_size, progress=bar)
                for images, flip in ((pictures["train"], training.flip), (pictures["val"], False))
            )
    return trunks[key]


def additions(training: Training, train, distances: dict) -> dict:
    """What is added to plain training, as arguments of `fit`: attacked copies, and a penalty on steep scores."""
    from functools import partial

    import numpy as np
    from jax.tree_util import Partial

    from jaxiqa import attacks
    from jaxiqa.defenses import LABELS, adversarial_batch, norm_penalty

    added: dict = {"attacked_mode": training.attacked_mode}
    if chosen := training.adversarial:
        strength = getattr(attacks.ATTACKS.get(chosen.attack), "strength", "epsilon")
        low, high = (float(label) for label in train.standardised(np.array([train.mos.min(), train.mos.max()])))
        added["augment"] = Partial(
            partial(adversarial_batch, target=chosen.target),
            attacks.make(chosen.attack, **chosen.options, **{strength: chosen.epsilon}),
            low=low,
            high=high,
            distance=distances[chosen.distance] if chosen.distance else Partial(LABELS[chosen.label]),
            penalty=chosen.penalty,
        )
    if chosen := training.norm_penalty:
        penalty = partial(norm_penalty, scale_free=chosen.scale_free)
        added["penalty"] = Partial(penalty, step=chosen.step, weight=chosen.weight)
    return added


if __name__ == "__main__":
    from jaxiqa.terminal import explained

    with explained():
        main()
