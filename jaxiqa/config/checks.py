"""Checks of an experiment without JAX: references, ranges and labels."""

import math

from jaxiqa.config.evaluation import check_evaluation
from jaxiqa.config.experiment import TAKEN, Experiment, trained_variants
from jaxiqa.config.suggest import suggestion
from jaxiqa.config.training import Average, Block, Rate, Saved, Tail, Training, Variant
from jaxiqa.config.values import check_values
from jaxiqa.core.files import check_labels


def check_experiment(experiment: Experiment) -> None:
    """Check the references between variants and the ranges of numbers.

    Raises:
        ValueError: the first fault, with the full name of its field.
    """
    check_values(experiment)
    if not experiment.variants:
        raise ValueError("variants is empty; expected at least one variant")
    check_labels("name", [experiment.name])
    check_labels("variants", experiment.variants, taken=TAKEN)
    seen: list[str] = []
    for name, variant in experiment.variants.items():
        where, trained = f"variants.{name}", [one for one in seen if one in trained_variants(experiment)]
        if isinstance(variant, Average):
            metrics = [one for one in seen if not isinstance(experiment.variants[one], Average)]
            _check_average(where, variant, seen, metrics)
        if not isinstance(variant, Variant):
            seen.append(name)
            continue
        if variant.parent is not None:
            untrained = "a Saved metric" if isinstance(experiment.variants.get(variant.parent), Saved) else "an Average"
            _check_earlier(f"{where}.parent", variant.parent, seen, trained, untrained)
        if variant.tail:
            _check_tail(f"{where}.tail", variant.tail)
        for label, block in blocks_of(variant, where).items():
            _check_place(f"{label}.where", block.where)
        _check_training(f"{where}.training", variant.training)
        if variant.training.taught:
            _check_teacher(f"{where}.training", variant, seen)
        if variant.prune and not 0 <= variant.prune.amount < 1:
            raise ValueError(f"{where}.prune.amount={variant.prune.amount}; expected a share in [0, 1), such as 0.1")
        if variant.prune and variant.prune.steps < 1:
            raise ValueError(f"{where}.prune.steps={variant.prune.steps}; expected at least 1")
        seen.append(name)
    if len(set(experiment.seeds)) != len(experiment.seeds) or not experiment.seeds:
        raise ValueError(f"seeds={experiment.seeds}; expected at least one seed, none of them twice")
    if odd := [seed for seed in experiment.seeds if not 0 <= seed < 2**31]:
        raise ValueError(f"seeds: {odd[0]} is not allowed; expected 0 to 2147483647")
    model, limit = experiment.model, experiment.data.limit
    numbers = {"model.width": model.width, "data.limit": limit}
    numbers |= {f"model.input_size[{i}]": side for i, side in enumerate(model.input_size or ())}
    for label, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{label}={number}; expected at least 1")
    if experiment.folds is not None:
        if experiment.folds < 2:
            raise ValueError(f"folds={experiment.folds}; expected at least 2")
        if experiment.data.folds is not None:
            raise ValueError(f"folds={experiment.folds} and data.folds={experiment.data.folds}; give only one of them")
    for where, data in (("data", experiment.data), ("evaluation.data", experiment.evaluation.data)):
        if data.folds is None and data.fold:
            raise ValueError(f"{where}.fold={data.fold} has no effect without {where}.folds, the number of folds")
        if data.folds is not None and not (data.folds >= 2 and 0 <= data.fold < data.folds):
            raise ValueError(
                f"{where}.folds={data.folds}, fold={data.fold}; expected at least 2 folds, numbered from 0"
            )
    check_evaluation(experiment.evaluation)


def blocks_of(variant: Variant, where: str = "") -> dict[str, Block]:
    """Return the blocks of a variant in their order, by the names of their fields.

    >>> list(blocks_of(Variant(Training(epochs=1), block=(Block("after:a"), Block("after:b"))), "variants.x"))
    ['variants.x.block[0]', 'variants.x.block[1]']
    """
    if isinstance(variant.block, tuple):
        return {f"{where}.block[{i}]": block for i, block in enumerate(variant.block)}
    return {f"{where}.block": variant.block} if variant.block else {}


def _check_average(where: str, average: Average, seen: list[str], trained: list[str]) -> None:
    for i, member in enumerate(average.members):
        _check_earlier(f"{where}.members[{i}]", member, seen, trained)
    if twice := [member for member in average.members if average.members.count(member) > 1]:
        raise ValueError(f"{where}.members has {twice[0]!r} twice")
    if not average.members:
        raise ValueError(f"{where}.members is empty; expected names of earlier variants")
    if len(average.members) == 1 and not average.mirror:
        raise ValueError(f"{where}.members has one variant and mirror=False, so it would be that variant; add another")


def _check_earlier(where: str, name: str, seen: list[str], trained: list[str], kind: str = "an Average") -> None:
    if name not in seen:
        raise ValueError(f"{where}={name!r} is not an earlier variant{suggestion(name, trained)}")
    if name not in trained:
        raise ValueError(f"{where}={name!r} is {kind}, which is not trained{suggestion(name, trained)}")


def _check_tail(where: str, tail: Tail) -> None:
    if tail.channels < 2 or tail.channels % 2:
        raise ValueError(f"{where}.channels={tail.channels}; expected an even number, at least 2")
    if tail.depth < 1:
        raise ValueError(f"{where}.depth={tail.depth}; expected at least 1")


def _check_place(where: str, value: str) -> None:
    side, _, stage = value.partition(":")
    if side not in ("before", "after", "position") or not stage:
        raise ValueError(f"{where}={value!r}; expected before:STAGE, after:STAGE or, in a ResNet, position:1 to 6")


def _check_training(where: str, training: Training) -> None:
    for name in ("epochs", "batch_size", "decay_every", "patches", "accumulate"):
        number = getattr(training, name)
        if number is not None and number < 1:
            raise ValueError(f"{where}.{name}={number}; expected at least 1")
    if training.batch_size == 1 and training.loss not in (None, "mse", "mae"):
        raise ValueError(
            f"{where}.batch_size=1; expected at least 2, since loss={training.loss!r} compares the images of a batch"
        )
    _check_rate(f"{where}.learning_rate", training.learning_rate, zero=False)
    _check_rate(f"{where}.backbone_factor", training.backbone_factor, zero=True)
    if training.decay_factor is not None and not 0 < training.decay_factor <= 1:
        raise ValueError(f"{where}.decay_factor={training.decay_factor}; expected a number in (0, 1]")
    for name in ("warmup", "weight_decay", "crops"):
        number = getattr(training, name)
        if number is not None and not 0 <= number < math.inf:
            raise ValueError(f"{where}.{name}={number}; expected at least 0")
    if not 0 <= training.average < 1:
        raise ValueError(f"{where}.average={training.average}; expected a decay in [0, 1), such as 0.999")
    for name in ("crop", "resize"):
        if (size := getattr(training, name)) is not None and min(size) < 1:
            raise ValueError(f"{where}.{name}={size}; expected (height, width), both at least 1")
    if training.batch_size is not None and training.batch_size % training.accumulate:
        raise ValueError(
            f"{where}.accumulate={training.accumulate} does not divide batch_size={training.batch_size} evenly"
        )
    adversarial, penalty = training.adversarial, training.norm_penalty
    if adversarial:
        _check_positive(f"{where}.adversarial.epsilon", adversarial.epsilon)
        _check_positive(f"{where}.adversarial.penalty", adversarial.penalty)
        if not 0 <= adversarial.weakest <= 1:
            raise ValueError(f"{where}.adversarial.weakest={adversarial.weakest}; expected a share in [0, 1]")
        given = adversarial.distance is not None and adversarial.distance.weights is not None
        if (adversarial.label == "lpips") != given:
            raise ValueError(
                f"{where}.adversarial.label={adversarial.label!r} with distance={adversarial.distance}; "
                "the label 'lpips' needs a distance with weights; other labels take none"
            )
    if penalty:
        _check_positive(f"{where}.norm_penalty.weight", penalty.weight)
        _check_positive(f"{where}.norm_penalty.step", penalty.step)
        if training.batch_size == 1 and penalty.scale_free:
            raise ValueError(f"{where}.batch_size=1; expected at least 2, since norm_penalty.scale_free=True")

    for name in ("jacobian", "spectral", "distil"):
        if chosen := getattr(training, name):
            for field in ("weight", "step", "limit"):
                if hasattr(chosen, field):
                    _check_positive(f"{where}.{name}.{field}", getattr(chosen, field))
    if training.distil and training.distil.data is None and training.distil.split != "train":
        raise ValueError(f"{where}.distil.split={training.distil.split!r} has no effect without distil.data")
    if training.distil and training.distil.distorted < 0:
        raise ValueError(f"{where}.distil.distorted={training.distil.distorted}; expected at least 0")
    if (distil := training.distil) and distil.target != "teacher" and not distil.distorted:
        raise ValueError(f"{where}.distil.target={distil.target!r} compares images with distorted ones; give distorted")
    if training.distil and training.distil.attacked and not adversarial:
        raise ValueError(f"{where}.distil.attacked=True, but there is no attack; give adversarial")
    if training.soft_labels and not 0 < training.soft_labels.share <= 1:
        raise ValueError(f"{where}.soft_labels.share={training.soft_labels.share}; expected a share in (0, 1]")
    if training.distil and training.batch_size == 1:
        raise ValueError(f"{where}.batch_size=1; expected at least 2, since distil compares the images of a batch")


def _check_teacher(where: str, variant: Variant, earlier: list[str]) -> None:
    distil, soft = variant.training.distil, variant.training.soft_labels
    taught = {(chosen.teacher or variant.parent, chosen.weights) for chosen in (distil, soft) if chosen}
    if len(taught) > 1:
        raise ValueError(f"{where}: distil and soft_labels have different teachers; name the same in both")
    chosen, where = variant.training.taught, f"{where}.{'distil' if distil else 'soft_labels'}"
    assert chosen
    if chosen.weights is not None:
        if chosen.teacher is not None:
            raise ValueError(f"{where}: teacher and weights are both given; give one of them")
        return
    teacher = chosen.teacher or variant.parent
    if teacher is None:
        raise ValueError(
            f"{where}.teacher=None, but the variant has no parent; name an earlier variant, or give weights"
        )
    if teacher not in earlier:
        raise ValueError(f"{where}.teacher={teacher!r} is not an earlier variant{suggestion(teacher, earlier)}")


def _check_rate(where: str, rate: Rate | None, *, zero: bool) -> None:
    """Check a number, or pairs (epoch, number); ``zero``: whether 0 is allowed."""
    pairs = rate if isinstance(rate, tuple) else () if rate is None else ((0, rate),)
    starts = [epoch for epoch, _ in pairs]
    if isinstance(rate, tuple) and (not starts or starts[0] != 0 or starts != sorted(set(starts))):
        raise ValueError(f"{where}={rate}; expected pairs (epoch, rate) from epoch 0 on, as ((0, 1e-4), (40, 5e-5))")
    for _, value in pairs:
        if not (0 <= value < math.inf and (zero or value)):
            expected = "at least 0" if zero else "a positive, finite number"
            raise ValueError(f"{where}={rate}; expected {expected}")


def _check_positive(where: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{where}={value}; expected a positive, finite number")
