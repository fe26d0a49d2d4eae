"""Check a training before it starts: find in seconds everything that is wrong, and name its field."""

import dataclasses
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa import attacks, data, models, networks
from jaxiqa.config import (
    Adversarial,
    Average,
    Data,
    Experiment,
    Saved,
    Training,
    blocks_of,
    check_experiment,
    trained_variants,
)
from jaxiqa.config.suggest import suggestion
from jaxiqa.models import MODELS
from jaxiqa.models.averaged import check_members
from jaxiqa.models.saved_model import run_folder
from jaxiqa.train.dry_run import abstract_models, check_forward, check_stage, named
from jaxiqa.train.gradual import check_prune
from jaxiqa.train.parallel import check_backend
from jaxiqa.train.penalties import trained_layers
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.state import split_model
from jaxiqa.train.variant import augmentation, check_model, frozen_stages, new_metric, run_path, swap_parts, weights_of


def check_training(experiment: Experiment) -> None:
    """Raise ``ValueError`` for every mistake in an experiment that can be found without files: names, places, sizes and
    options of everything that is trained.

    Models are built as shapes only, so it takes a second or two.
    """
    check_experiment(experiment)
    _check_data("data", experiment.data)
    check_model(experiment.model)
    experiment = with_recipes(experiment)
    shapes = abstract_models(experiment) | _saved(experiment)
    for name, variant in trained_variants(experiment).items():
        where, model = f"variants.{name}.training", shapes[name]
        _check_freeze(experiment, name, model)
        _check_batches(where, variant.training)
        swap_parts(nnx.clone(model), variant, where=f"variants.{name}")
        _check_penalties(where, variant.training, model)
        if variant.training.adversarial:
            _check_attack(f"{where}.adversarial", variant.training.adversarial)
        if variant.prune:
            frozen = frozen_stages(model, variant.training.freeze)
            assert variant.training.epochs is not None
            with named(f"variants.{name}.prune"):
                check_prune(split_model(model, frozen=frozen).params, variant.prune, variant.training.epochs)
    for name, average in experiment.variants.items():
        if isinstance(average, Average):
            with named(f"variants.{name}"):
                check_members([shapes[member] for member in average.members])
    if size_of_images := _known_size(experiment):
        check_forward(experiment, shapes, size_of_images)


def _saved(experiment: Experiment) -> dict[str, Any]:
    """Return the metrics that are read, by variant; ``ValueError`` or ``FileNotFoundError`` if one cannot be read."""
    found = {}
    for name, variant in experiment.variants.items():
        if isinstance(variant, Saved):
            with named(f"variants.{name}.weights={variant.weights!r}"):
                found[name] = models.load_run(run_path(variant.weights))
    return found


def check_devices(experiment: Experiment) -> None:
    """Raise ``ValueError`` unless every batch can be split over the devices of all processes, by the back end that the
    experiment names; only training needs this."""
    check_backend(experiment.parallel, "parallel")
    devices = jax.device_count()
    for name, variant in trained_variants(with_recipes(experiment)).items():
        size, count = variant.training.batch_size, devices * variant.training.accumulate
        assert size is not None
        if size % count:
            parts = f" and {variant.training.accumulate} parts" if variant.training.accumulate > 1 else ""
            raise ValueError(
                f"variants.{name}.training.batch_size={size} cannot be divided among {devices} devices{parts}; "
                f"choose a multiple of {count}"
            )


def check_files(experiment: Experiment, pending: Collection[str]) -> dict:
    """Read the weights that the variants in ``pending`` need, before any training.

    Returns:
        The networks that lower labels of attacked images, by their entry in the config.

    Raises:
        ValueError, FileNotFoundError: a file does not exist or does not fit; the message names the field.
    """
    chosen = experiment.model
    if chosen.weights and any(trained_variants(experiment)[name].parent is None for name in pending):
        if isinstance(path := weights_of(chosen), Path) and not path.is_dir():  # the folder of a run
            _check_file("model.weights", chosen.weights)
        with named("model.weights"):
            nnx.eval_shape(lambda: new_metric(chosen, weights=True))
    found: dict = {}
    for name in pending:
        adversarial = trained_variants(experiment)[name].training.adversarial
        network = adversarial and adversarial.distance
        if not network or network in found:
            continue
        where = f"variants.{name}.training.adversarial.distance"
        if network.name not in networks.NETWORKS:
            raise ValueError(f"{where}.name={network.name!r}{suggestion(network.name, networks.NETWORKS)}")
        named_files = {"weights": network.weights, "backbone_weights": network.backbone_weights}
        files = {argument: path for argument, path in named_files.items() if path}
        for argument, path in files.items():
            _check_file(f"{where}.{argument}", path)
        with named(where):
            found[network] = networks.load(network.name, **{key: data.resolve(path) for key, path in files.items()})
    return found


def check_counts(experiment: Experiment, counts: dict[str, int], pending: Collection[str]) -> None:
    """Raise ``ValueError`` unless there are enough images for training and validation.

    Args:
        experiment: the experiment.
        counts: images by split.
        pending: variants to train.
    """
    for part, least, why in (("train", 2, "to learn from"), ("val", 2, "for a correlation")):
        if part not in counts:
            listed = ", ".join(counts) or "none"
            raise ValueError(f"data.name={experiment.data.name!r} has no split {part!r}, only {listed}")
        if counts[part] < least:
            raise ValueError(
                f"data: the split {part!r} has {counts[part]} image; training needs at least {least} {why}. "
                "Give it more images, or a larger share by data.options.split"
            )
    for name in pending:
        training = trained_variants(with_recipes(experiment))[name].training
        size, examples = training.batch_size, counts["train"] * max(training.crops or 0, 1)
        assert size is not None
        if size > examples:
            unit = "crops" if training.crops else "images"
            raise ValueError(
                f"variants.{name}.training.batch_size={size} is larger than the training set ({examples} {unit}); "
                f"choose at most {examples}"
            )


def check_splits(experiment: Experiment, splits: dict, pending: Collection[str]) -> None:
    """Run `check_counts`; also check that labels differ and that the images fit the model."""
    check_counts(experiment, {part: len(split) for part, split in splits.items()}, pending)
    for part in ("train", "val"):
        if splits[part].mos is None:
            raise ValueError(f"data: the split {part!r} has no scores; training needs them")
        if np.ptp(splits[part].mos) == 0:
            raise ValueError(f"data: all scores of the split {part!r} are {splits[part].mos[0]}; they must differ")
    if splits["train"].regions:
        _check_regions(experiment, pending)
    if not _known_size(experiment):
        check_forward(experiment, abstract_models(experiment), splits["train"].read(0).shape[:2])


def _check_regions(experiment: Experiment, pending: Collection[str]) -> None:
    """Raise ``ValueError`` for a training that cannot use labels of regions, or would lose them."""
    chosen = experiment.model.metric
    if not MODELS[chosen].metric.regional:
        able = ", ".join(name for name, spec in MODELS.items() if spec.metric.regional)
        raise ValueError(
            f"model.metric={chosen!r} does not train on labels of regions, which {experiment.data.name!r} has here; "
            f"load it without them (data.options), or choose {able}"
        )
    faults = {"crops": "crops cut labelled regions", "adversarial": "attacked copies lack labels of regions"}
    for name in pending:
        training = trained_variants(with_recipes(experiment))[name].training
        for field, why in faults.items():
            if getattr(training, field):
                raise ValueError(
                    f"variants.{name}.training.{field}: {why}, which {experiment.data.name!r} has here; leave out "
                    f"training.{field}, or load the data without labels of regions (data.options)"
                )


def known_counts(chosen: Data) -> dict[str, int] | None:
    """Return images by split if the config determines them, so that they need not be generated to be counted."""
    if chosen.name != "builtin" or chosen.source is not None or chosen.folds is not None:
        return None
    defaults = inspect.signature(data.DATASETS["builtin"]).parameters
    counts = {part: chosen.options.get(part, defaults[part].default) for part in ("train", "val", "test")}
    return {part: count if chosen.limit is None else min(count, chosen.limit) for part, count in counts.items()}


def _known_size(experiment: Experiment) -> tuple[int, int] | None:
    """Return (height, width) of the training images, if the config determines it."""
    if experiment.model.input_size or known_counts(experiment.data) is None:
        return experiment.model.input_size
    default = inspect.signature(data.DATASETS["builtin"]).parameters["size"].default
    size = tuple(experiment.data.options.get("size", default))
    return size if len(size) == 2 else None  # the data set reports what is wrong with it


def _check_data(where: str, chosen: Data) -> None:
    if chosen.name not in data.DATASETS:
        raise ValueError(f"{where}.name={chosen.name!r}{suggestion(chosen.name, data.DATASETS)}")
    allowed = [key for key in inspect.signature(data.DATASETS[chosen.name]).parameters if key != "source"]
    for option in chosen.options:
        if option not in allowed:
            raise ValueError(f"{where}.options: {chosen.name} has no option {option!r}{suggestion(option, allowed)}")


def _check_batches(where: str, training: Training) -> None:
    """Check what depends on the recipe: the loss of single images, and the size of crops."""
    if training.batch_size == 1 and training.loss not in ("mse", "mae"):
        raise ValueError(f"{where}.batch_size=1; expected at least 2, since loss={training.loss!r} compares the images")
    if training.crops and training.crop is None:
        raise ValueError(f"{where}.crops={training.crops} needs crop=(height, width), such as crop=(224, 224)")


def _check_freeze(experiment: Experiment, name: str, model: Any) -> None:
    variant = trained_variants(experiment)[name]
    freeze = variant.training.freeze
    if freeze is None:
        return
    check_stage(f"variants.{name}.training.freeze", freeze, model)
    own = {
        insertion.name
        for insertion in model.insertions[len(model.insertions) - len(blocks_of(variant)) :]
        if nnx.state(model.backbone.stage[insertion.name], nnx.Param)  # a low_pass has nothing to train
    }
    if buried := sorted(own & set(frozen_stages(model, freeze))):
        raise ValueError(
            f"variants.{name}: {', '.join(buried)} would not train, being before training.freeze={freeze!r}"
        )


def _check_penalties(where: str, training: Training, model: Any) -> None:
    """Raise ``ValueError`` for a stage that does not exist or does not train, or an unknown data set."""
    if training.jacobian:
        check_stage(f"{where}.jacobian.stage", training.jacobian.stage, model)
        if (
            training.freeze
            and model.backbone.span(training.jacobian.stage)[1] <= model.backbone.span(training.freeze)[1]
        ):
            raise ValueError(
                f"{where}.jacobian.stage={training.jacobian.stage!r} does not train, with freeze={training.freeze!r}; "
                "name a later stage"
            )
    if training.spectral:
        with named(where):
            trained_layers(model, training.freeze)
    if training.distil and training.distil.data:
        _check_data(f"{where}.distil.data", training.distil.data)
    if (chosen := training.taught) and chosen.weights:
        label = "distil" if training.distil else "soft_labels"
        with named(f"{where}.{label}.weights={chosen.weights!r}"):
            run_folder(run_path(chosen.weights))  # raises the error if there is none


def _check_attack(where: str, chosen: Adversarial) -> None:
    if chosen.attack not in attacks.ATTACKS:
        fitted = " is fitted on other images" if chosen.attack in attacks.FITTED else ""
        raise ValueError(f"{where}.attack={chosen.attack!r}{fitted}{suggestion(chosen.attack, attacks.ATTACKS)}")
    kind = attacks.ATTACKS[chosen.attack]
    known = [field.name for field in dataclasses.fields(kind)]
    for option in chosen.options:
        if option not in known:
            raise ValueError(f"{where}.options: {chosen.attack} has no option {option!r}{suggestion(option, known)}")
    in_pixels = attacks.strength_option(chosen.attack) == "epsilon" and chosen.options.get("norm", "linf") == "linf"
    if in_pixels and chosen.epsilon > 1:
        raise ValueError(f"{where}.epsilon={chosen.epsilon} is above 1; write {chosen.epsilon:g} / 255")
    with named(where):
        attack = augmentation(chosen, low=0.0, high=1.0, distance=_nothing).args[0]
    if isinstance(attack, attacks.QueryAttack):
        raise ValueError(
            f"{where}.attack={chosen.attack!r} is a black-box attack, which a training step cannot run; choose a "
            "white-box attack"
        )


def _nothing(clean: Any, attacked: Any) -> Any:
    return clean[:, 0, 0, 0]


def _check_file(where: str, path: str) -> None:
    found = data.resolve(path)
    if not found.is_file():
        raise FileNotFoundError(
            f"{where}={path!r}: {found} {'is a folder' if found.is_dir() else 'does not exist'}; "
            "relative paths are under $JAXIQA_DATA (./data without it)"
        )
