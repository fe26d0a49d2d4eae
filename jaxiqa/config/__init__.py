"""What an experiment is: frozen dataclasses, read by `train.py` and `evaluate.py`, filled by `configs/*.py`.

Nothing heavy is imported here, so that ``--help`` answers at once. Below the two scripts, only `jaxiqa.evaluation`
takes parts of a config; others are passed its fields as arguments.
"""

import importlib.util
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxiqa.config.data import Data
from jaxiqa.config.evaluation import (
    Adaptive,
    Align,
    Attack,
    Certifier,
    Defense,
    Evaluation,
    Network,
    Subset,
    check_evaluation,
)

__all__ = [
    "Adaptive",
    "Align",
    "Attack",
    "Block",
    "Certifier",
    "Data",
    "Defense",
    "Evaluation",
    "Experiment",
    "Model",
    "Network",
    "Prune",
    "Subset",
    "Training",
    "Variant",
    "check_experiment",
    "describe",
    "from_command_line",
    "load_config",
    "root_folder",
    "run_folder",
]


@dataclass(frozen=True)
class Model:
    """A metric over a backbone."""

    backbone: str
    width: int | None = None
    """Channels of a ResNet's first stage (64 in the paper); None is the published width."""
    weights: str | None = None
    """ImageNet weights of the backbone; relative paths as for `Data.source`. None starts from scratch."""
    input_size: tuple[int, int] | None = None
    """(height, width) that the metric resizes to; None scores images at their own size."""
    taps: tuple[str, str] | None = None
    """The two stages that the head reads; None is the backbone's default."""


@dataclass(frozen=True)
class Block:
    """What to insert, and where: 'before:STAGE' or 'after:STAGE'."""

    where: str
    kind: Literal["robust_block", "bottleneck", "square_pool"] = "robust_block"
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the block: mid, pool, reduce, unitary, padding, shrink, band of a robust_block."""
    trainable: bool = True
    """False keeps the block at its random initial values, as the authors' Linearity code does."""


@dataclass(frozen=True)
class Prune:
    """Share of each convolution's filters (or of all weights) set to zero and held there while fine-tuning."""

    amount: float = 0.1
    criterion: Literal["l2", "l1"] = "l2"


@dataclass(frozen=True)
class Adversarial:
    """Attacked copies beside the pictures of every batch; `jaxiqa.defenses.adversarial_batch` explains."""

    epsilon: float
    """Strength of the attack: for most a radius in [0, 1] pixel units, of pictures as the metric resizes them."""
    attack: str = "apgd"
    """`jaxiqa.attacks.ATTACKS` lists the names."""
    options: dict[str, Any] = field(default_factory=lambda: {"steps": 2, "random_start": False})
    label: Literal["ssim", "ms_ssim", "lpips", "unchanged", "minimum"] = "ssim"
    """What lowers the label of an attacked picture."""
    penalty: float = 1.0
    """Share of the labels' range that a distance of 1 costs."""
    distance: "Network | None" = None
    """The network that the label "lpips" needs; relative paths of its files as for `Data.source`."""
    target: Literal["loss", "score"] = "loss"
    """What the attack raises: how far scores are from labels, or the score."""


@dataclass(frozen=True)
class NormPenalty:
    """What a steep score adds to the loss; `jaxiqa.defenses.norm_penalty` explains."""

    weight: float
    step: float = 0.01
    """Of the finite difference, in [0, 1] pixel units."""
    scale_free: bool = True
    """False lets the metric escape the penalty by smaller scores, as in the paper."""


@dataclass(frozen=True)
class Training:
    """One training or fine-tuning run."""

    epochs: int
    batch_size: int = 32
    loss: Literal["norm_in_norm", "mse", "plcc"] = "norm_in_norm"
    learning_rate: float = 1e-3
    backbone_factor: float = 0.1
    """The backbone's learning rate, as a share of the head's; an inserted block learns at the head's rate."""
    decay_every: int = 10
    decay_factor: float = 0.1
    freeze: str | None = None
    """Last stage that is not trained. Its activations are computed once and kept in memory, unless `adversarial` or
    `norm_penalty` need the pictures: then they are computed, and differentiated, at every step."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Whether the backbone's batch norm follows the batch or keeps its running statistics."""
    flip: bool = True
    adversarial: Adversarial | None = None
    """Train on attacked pictures too."""
    norm_penalty: NormPenalty | None = None
    """Penalise steep scores."""
    attacked_mode: Literal["eval", "train"] = "eval"
    """Batch norm of the metric while it is attacked or its slope is measured; the benchmark's code uses "train"."""


@dataclass(frozen=True)
class Variant:
    """One model of the experiment: a parent, what is changed about it, and how it is trained."""

    training: Training
    parent: str | None = None
    """The variant whose trained weights this one starts from; None is the backbone's weights."""
    block: Block | None = None
    prune: Prune | None = None


@dataclass(frozen=True)
class Experiment:
    """Everything `train.py` and `evaluate.py` need."""

    name: str
    data: Data
    model: Model
    variants: dict[str, Variant]
    """Name -> variant, parents first; the first is the baseline."""
    evaluation: Evaluation
    seeds: tuple[int, ...] = (0,)
    workdir: str = ""
    """Where everything is written; the default is runs/NAME."""
    parallel: Literal["pmap", "shard_map"] = "pmap"


def from_command_line(description: str, arguments: list[str] | None = None) -> Experiment:
    """Read ``--config configs/NAME.py``, then override its fields by ``--field value``.

    A mistyped field is an error with a suggestion. Without ``--config``, ``--help`` explains and lists the configs.

    Raises:
        SystemExit: bad usage; the message says what is allowed.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = Path(sys.argv[0]).name
    if "--config" in arguments[:-1]:
        at = arguments.index("--config")
        path = Path(arguments[at + 1])
        del arguments[at : at + 2]
        experiment = load_config(path)
    elif any(argument.startswith("--config=") for argument in arguments):
        (text,) = (argument for argument in arguments if argument.startswith("--config="))
        arguments.remove(text)
        experiment = load_config(Path(text.removeprefix("--config=")))
    else:
        usage = f"usage: {program} --config configs/NAME.py [--field value ...]\n\n{description}\n\nconfigs:\n"
        folder = Path(__file__).parent.parent.parent / "configs"
        usage += "".join(f"  configs/{path.name}\n" for path in sorted(folder.glob("*.py")))
        usage += f"\n{program} --config configs/NAME.py --help lists every field and its value."
        if {"-h", "--help"} & set(arguments):
            print(usage)
            raise SystemExit(0)
        raise SystemExit(usage)
    # A block or a pruning that a config leaves out is no sub-command; it can only be added in the config.
    options = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(
        Experiment, args=arguments, default=experiment, description=description, prog=program, config=options
    )


def load_config(path: Path) -> Experiment:
    """Call ``get_config()`` of a Python file and check the experiment it returns."""
    if not path.is_file():
        raise SystemExit(f"--config {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise SystemExit(f"--config {path}: it has no function get_config()")
    return module.get_config()


def check_experiment(experiment: Experiment) -> None:
    """Raise ``ValueError`` where variants refer to one another wrongly or numbers are out of range."""
    if not experiment.variants:
        raise ValueError("variants is empty; an experiment needs at least one")
    seen: list[str] = []
    for name, variant in experiment.variants.items():
        where = f"variants.{name}"
        if variant.parent is not None and variant.parent not in seen:
            raise ValueError(f"{where}.parent={variant.parent!r} is not an earlier variant; choose from {seen}")
        if variant.block and variant.block.where.partition(":")[0] not in ("before", "after"):
            raise ValueError(f"{where}.block.where={variant.block.where!r}; write before:STAGE or after:STAGE")
        for field_name in ("epochs", "batch_size", "decay_every"):
            if getattr(variant.training, field_name) < 1:
                raise ValueError(f"{where}.training.{field_name}={getattr(variant.training, field_name)}; at least 1")
        if not variant.training.learning_rate > 0:
            raise ValueError(f"{where}.training.learning_rate={variant.training.learning_rate}; must be positive")
        _check_adversarial(f"{where}.training", variant.training)
        seen.append(name)
    if len(set(experiment.seeds)) != len(experiment.seeds) or not experiment.seeds:
        raise ValueError(f"seeds={experiment.seeds}; give at least one, each once")
    check_evaluation(experiment.evaluation)


def _check_adversarial(where: str, training: Training) -> None:
    adversarial, penalty = training.adversarial, training.norm_penalty
    numbers: dict[str, float] = {}
    if adversarial:
        numbers |= {"adversarial.epsilon": adversarial.epsilon, "adversarial.penalty": adversarial.penalty}
        given = adversarial.distance is not None and adversarial.distance.weights is not None
        if (adversarial.label == "lpips") != given:
            raise ValueError(
                f"{where}.adversarial.label={adversarial.label!r} with distance={adversarial.distance}; "
                "'lpips' needs a network with weights, and no other label takes one"
            )
    if penalty:
        numbers |= {"norm_penalty.weight": penalty.weight, "norm_penalty.step": penalty.step}
    for field_name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{where}.{field_name}={value}; must be positive")


def run_folder(experiment: Experiment, variant: str, seed: int) -> Path:
    """Where everything about one trained variant lies."""
    return root_folder(experiment) / variant / f"seed{seed}"


def root_folder(experiment: Experiment) -> Path:
    """Where everything about an experiment lies."""
    return Path(experiment.workdir or f"runs/{experiment.name}")


def describe(experiment: Experiment, variant: str, seed: int) -> dict[str, Any]:
    """All that decides the parameters of one trained variant, as JSON data: what ``config.json`` holds.

    It includes the chain of parents, so that a change anywhere upstream is noticed.
    """
    chain, name = [], variant
    while name is not None:
        chain.append(experiment.variants[name])
        name = experiment.variants[name].parent
    described = {
        "data": asdict(experiment.data),
        "model": asdict(experiment.model),
        "variants": [_described(replace(link, parent=None)) for link in reversed(chain)],
        "seed": seed,
    }
    return json.loads(json.dumps(described))


def _described(variant: Variant) -> dict[str, Any]:
    described, plain = asdict(variant), asdict(Training(epochs=1))
    for name in ("adversarial", "norm_penalty", "attacked_mode"):
        # Left out where they are not used, so that runs from before there was such a field go on.
        if described["training"][name] == plain[name]:
            del described["training"][name]
    return described
