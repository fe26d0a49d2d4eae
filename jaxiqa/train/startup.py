"""Check a training before it starts: find in seconds everything that is wrong, and name its field."""

import dataclasses
import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa import attacks, data, networks
from jaxiqa.config import Adversarial, Data, Experiment, blocks_of, check_experiment
from jaxiqa.config.identity import chain
from jaxiqa.config.suggest import suggestion
from jaxiqa.train.gradual import check_prune
from jaxiqa.train.state import split_model
from jaxiqa.train.variant import (
    augmentation,
    check_model,
    frozen_stages,
    insert_blocks,
    needs_images,
    new_metric,
    stages_of,
    swap_activations,
    weights_of,
)


def check_training(experiment: Experiment) -> None:
    """Raise ``ValueError`` for every mistake in an experiment that can be found without files: names, places, sizes and
    options of everything that is trained.

    Models are built as shapes only, so it takes a second or two.
    """
    check_experiment(experiment)
    _check_data("data", experiment.data)
    check_model(experiment.model)
    shapes = abstract_models(experiment)
    for name, variant in experiment.variants.items():
        where, model = f"variants.{name}.training", shapes[name]
        _check_freeze(experiment, name, model)
        swap_activations(nnx.clone(model), variant, where=f"variants.{name}")
        if variant.training.adversarial:
            _check_attack(f"{where}.adversarial", variant.training.adversarial)
        if variant.prune:
            frozen = frozen_stages(model, variant.training.freeze)
            with named(f"variants.{name}.prune"):
                check_prune(split_model(model, frozen=frozen).params, variant.prune, variant.training.epochs)
    if size_of_images := _known_size(experiment):
        check_forward(experiment, shapes, size_of_images)


def check_devices(experiment: Experiment) -> None:
    """Raise ``ValueError`` unless every batch can be split over this machine's devices; only training needs this."""
    devices = len(jax.local_devices())
    for name, variant in experiment.variants.items():
        if (size := variant.training.batch_size) % devices:
            raise ValueError(
                f"variants.{name}.training.batch_size={size} cannot be divided among {devices} devices; "
                f"choose a multiple of {devices}"
            )


def check_files(experiment: Experiment, pending: Collection[str]) -> dict:
    """Read the weights that the variants in ``pending`` need, before any training.

    Returns:
        The networks that lower labels of attacked images, by their entry in the config.

    Raises:
        ValueError, FileNotFoundError: a file does not exist or does not fit; the message names the field.
    """
    chosen = experiment.model
    if chosen.weights and any(experiment.variants[name].parent is None for name in pending):
        if isinstance(path := weights_of(chosen), Path) and not path.is_dir():  # the folder of a run
            _check_file("model.weights", chosen.weights)
        with named("model.weights"):
            nnx.eval_shape(lambda: new_metric(chosen, weights=True))
    found: dict = {}
    for name in pending:
        adversarial = experiment.variants[name].training.adversarial
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
        size = experiment.variants[name].training.batch_size
        if size > counts["train"]:
            raise ValueError(
                f"variants.{name}.training.batch_size={size} is larger than the training set "
                f"({counts['train']} images); choose at most {counts['train']}"
            )


def check_splits(experiment: Experiment, splits: dict, pending: Collection[str]) -> None:
    """Run `check_counts`; also check that labels differ and that the images fit the model."""
    check_counts(experiment, {part: len(split) for part, split in splits.items()}, pending)
    for part in ("train", "val"):
        if splits[part].mos is None:
            raise ValueError(f"data: the split {part!r} has no scores; training needs them")
        if np.ptp(splits[part].mos) == 0:
            raise ValueError(f"data: all scores of the split {part!r} are {splits[part].mos[0]}; they must differ")
    if not _known_size(experiment):
        check_forward(experiment, abstract_models(experiment), splits["train"].read(0).shape[:2])


def known_counts(chosen: Data) -> dict[str, int] | None:
    """Return images by split if the config determines them, so that they need not be generated to be counted."""
    if chosen.name != "builtin" or chosen.source is not None:
        return None
    defaults = inspect.signature(data.DATASETS["builtin"]).parameters
    counts = {part: chosen.options.get(part, defaults[part].default) for part in ("train", "val", "test")}
    return {part: count if chosen.limit is None else min(count, chosen.limit) for part, count in counts.items()}


def check_forward(experiment: Experiment, shapes: dict[str, Any], size: tuple[int, int]) -> None:
    """Raise ``ValueError`` if images of this size cannot pass a variant in training, or its attack.

    Args:
        experiment: the experiment.
        shapes: the result of `abstract_models`.
        size: (height, width) of the images.
    """
    images = jax.ShapeDtypeStruct((2, *size, 3), np.float32)
    labels, key = jax.ShapeDtypeStruct((2,), np.float32), jax.random.key(0)
    seen: list[Any] = []
    for name, variant in experiment.variants.items():
        where, model, chosen = f"variants.{name}", shapes[name], variant.training.adversarial
        trunk = () if needs_images(variant) else frozen_stages(model, variant.training.freeze)
        if (id(model), trunk) not in seen:
            seen.append((id(model), trunk))
            with named(f"{where}: images of {size[0]}x{size[1]} pixels"):
                _pass(model, trunk, images)
        if chosen and chosen.distance is None and dataclasses.replace(chosen, epsilon=0.0) not in seen:
            seen.append(dataclasses.replace(chosen, epsilon=0.0))
            with named(f"{where}.training.adversarial: images of {size[0]}x{size[1]} pixels"):
                attacked = augmentation(chosen, low=0.0, high=1.0)
                jax.eval_shape(lambda x, y, to=attacked: to(lambda z: z.mean((1, 2, 3)), x, y, key), images, labels)


def _pass(model: Any, trunk: tuple[str, ...], images: Any) -> None:
    graphdef, state = nnx.split(model)

    def outputs(state: Any, images: Any) -> Any:
        model = nnx.merge(graphdef, state)
        return model.outputs_from(model.trunk(images, trunk[-1]), trunk[-1]) if trunk else model.outputs(images)

    jax.eval_shape(outputs, state, images)


def _known_size(experiment: Experiment) -> tuple[int, int] | None:
    """Return (height, width) of the training images, if the config determines it."""
    if experiment.model.input_size or known_counts(experiment.data) is None:
        return experiment.model.input_size
    default = inspect.signature(data.DATASETS["builtin"]).parameters["size"].default
    size = tuple(experiment.data.options.get("size", default))
    return size if len(size) == 2 else None  # the data set reports what is wrong with it


@contextmanager
def named(label: str) -> Iterator[None]:
    """Add the field's name to an error."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{label}: {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{label}: {error}") from error


def abstract_models(experiment: Experiment) -> dict[str, Any]:
    """Return the metric of each variant, as shapes; one object for variants with the same blocks.

    Raises:
        ValueError: the backbone, a tap or a block does not fit; the message names the field.
    """
    with named("model"):
        plain = nnx.eval_shape(lambda: new_metric(dataclasses.replace(experiment.model, taps=None), weights=False))
    if taps := experiment.model.taps:
        for tap in taps:
            _check_stage("model.taps", tap, plain)
        with named("model"):
            plain = nnx.eval_shape(lambda: new_metric(experiment.model, weights=False))
    shapes: dict[str, Any] = {}
    for name, variant in experiment.variants.items():
        if not blocks_of(variant):
            shapes[name] = shapes[variant.parent] if variant.parent else plain
            continue

        def make(links: list[str] = chain(experiment, name)) -> Any:  # noqa: B008
            model = new_metric(experiment.model, weights=False)
            for link in links:
                insert_blocks(model, experiment.variants[link], rngs=nnx.Rngs(0), where=f"variants.{link}")
            return model

        shapes[name] = nnx.eval_shape(make)
    return shapes


def _check_data(where: str, chosen: Data) -> None:
    if chosen.name not in data.DATASETS:
        raise ValueError(f"{where}.name={chosen.name!r}{suggestion(chosen.name, data.DATASETS)}")
    allowed = [key for key in inspect.signature(data.DATASETS[chosen.name]).parameters if key != "source"]
    for option in chosen.options:
        if option not in allowed:
            raise ValueError(f"{where}.options: {chosen.name} has no option {option!r}{suggestion(option, allowed)}")


def _check_stage(where: str, stage: str, model: Any) -> None:
    known = stages_of(model)
    if stage not in known:
        raise ValueError(f"{where}={stage!r}: no such stage{suggestion(stage, known)}")


def _check_freeze(experiment: Experiment, name: str, model: Any) -> None:
    variant = experiment.variants[name]
    freeze = variant.training.freeze
    if freeze is None:
        return
    _check_stage(f"variants.{name}.training.freeze", freeze, model)
    own = {insertion.name for insertion in model.insertions[len(model.insertions) - len(blocks_of(variant)) :]}
    if buried := sorted(own & set(frozen_stages(model, freeze))):
        raise ValueError(
            f"variants.{name}: {', '.join(buried)} would not train, being before training.freeze={freeze!r}"
        )


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
